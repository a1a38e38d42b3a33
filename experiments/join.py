"""Takes a site into a federation: it trains every round and scores all models at the end.

    python -m experiments.join --flagfile=experiments/flagfiles/demo.flags --kit=federation/C1
    --site_folder=sites/C1

Only weights, scores and rows of numbers leave the site. Stopped or killed, it goes on when the same
command is given again.
"""

from __future__ import annotations

import pathlib

from absl import app, flags, logging

from experiments import flags as experiment_flags
from federated.errors import CertificateRefused, FederationError, VersionDiffers, WrongCredential
from federated.security import expiry
from federated.site import grpc_transport
from federated.site import loop as site_loop
from preprocessing import declared_labels

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_runtime()
experiment_flags.define_site()
flags.DEFINE_string("kit", None, "The site's folder, made by experiments.provision.")
flags.DEFINE_string("server", None, "host:port of the server, in place of the kit's.")
flags.DEFINE_list(
    "lend",
    [],
    "name:file of earlier models to evaluate at all sites, e.g. C1_baseline:sites/C1/baseline/best.safetensors.",
)
flags.DEFINE_bool(
    "lend_local",
    True,
    "Lend this site's best model of this run, e.g. C1_FL_local, to the evaluation at all sites. --nolend_local keeps it here: the "
    "server never gets it, no other site sees it, and Table 1 has no row of it and therefore no row Average.",
)


def main(argv: list[str]) -> int:
    del argv
    import tensorflow as tf

    from experiments.models import devices, model_folders, prepared_cases, site_trainer
    from experiments.reports import table1_report
    from runkit import allocator, atomic, folder_lock, interrupts, overwriting, private

    allocator.keep_buffers()
    devices.single_machine("experiments.join")
    config = experiment_flags.experiment_config()
    folder = experiment_flags.site_folder()
    kit = experiment_flags.required("kit", "the site's folder, made by experiments.provision")
    lent = {
        "--lend": [file for _, file in map(_lent, FLAGS.lend)],
        "--site_folder": [folder / "cases"],
    }
    written = [folder / "federated", folder / "figures" / "comparison.png"]
    overwriting.require_apart(
        {**lent, **experiment_flags.genotype_file()}, {}, folders={"--site_folder": written}
    )
    host, port = experiment_flags.address(FLAGS.server) if FLAGS.server else (None, None)
    store = prepared_cases.open_store(folder / "cases", config)
    for line in expiry.warnings(kit):
        logging.warning("event=certificate_ends %s", line)
    transport = grpc_transport.connect(kit, host=host, port=port, learned=folder / "federated")
    if transport.site != store.site:
        raise ValueError(
            f"kit {kit} is of site {transport.site}, the prepared cases in {folder} of site {store.site}; use the kit of this site"
        )
    folder_lock.hold(kit)
    folder_lock.hold(folder / "cases", shared=True)
    folder_lock.hold(private.folder(folder / "federated"))
    if store.declared is None:
        logging.warning(
            "event=labels_not_declared site=%s: what its labels do not show is taken for absent; say what they show by `declared_labels` in "
            "the manifest and run experiments.prepare again, which prepares no case twice",
            store.site,
        )
    else:
        logging.info(
            "event=labels_declared site=%s labels=%s",
            store.site,
            declared_labels.text(store.declared),
        )
    trainer = site_trainer.SegmentationTrainer(
        config,
        store,
        folder / "federated",
        label=f"{store.site}_FL_local",
        strategy=tf.distribute.MirroredStrategy(),
        extra_models=dict(_lent(entry) for entry in FLAGS.lend),
        lend_local=FLAGS.lend_local,
        missing=site_trainer.missing_labels(config, store),
    )
    try:
        summary = site_loop.run(
            trainer, transport, folder / "federated" / "journal", authority=transport.authority
        )
    except (CertificateRefused, WrongCredential, VersionDiffers) as error:
        raise type(error)(f"{error}; python -m experiments.doctor --kit={kit} says more") from error
    if not summary.finished:
        print("stopped; run the same command again to resume")
        return interrupts.EXIT_CODE if interrupts.received() else 1
    if trainer.best_score is not None:
        model_folders.write_best(
            folder / "federated" / "model", f"{store.site}_FL_local", trainer, config, store
        )
    ending, examples = (
        f"finished{f': {summary.remark}' if summary.remark else ''}",
        folder / "federated" / "examples",
    )
    if not list(examples.glob("case*.npy")):  # the run ended without this site's evaluation
        print(ending)
        return 0
    cases = [store.open(case_id) for case_id in store.case_ids("test")]
    figure = table1_report.comparison(cases, examples, store.site)
    with atomic.replacing(folder / "figures" / "comparison.png") as path:
        figure.savefig(path)
    print(f"{ending}; figure {folder / 'figures' / 'comparison.png'}")
    return 0


def _lent(entry: str) -> tuple[str, pathlib.Path]:
    name, separator, file = entry.partition(":")
    if not separator or not pathlib.Path(file).is_file():
        raise app.UsageError(f"--lend has {entry!r}; expected name:file with an existing file")
    return name, pathlib.Path(file)


if __name__ == "__main__":
    experiment_flags.run(
        main,
        required=["kit", "site_folder"],
        resumes=True,
        needs_tensorflow=True,
        expected=(FederationError,),
    )
