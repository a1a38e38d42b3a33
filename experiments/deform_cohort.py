"""Makes two sites out of a few real CTs: deformed copies, with tumours painted in at C2.

    python -m experiments.deform_cohort --manifest=sources/manifest.json --output=cohort \\
        --seed=1 --split_c1=18,6,6 --split_c2=20,7,7

The sources are CTs of healthy pancreases, listed by experiments.list_cases; for organ maps, put
`label_values` into the manifest. With three sources or more, all copies of one source, at both
sites, are in the same split: training, validation or test. The cost is printed first (`--dry_run`
stops there).

Writes <output>/C1 and C2, each with manifest.json and split.json for experiments.prepare, and
<output>/cohort.json, which records the source and the deformation of every copy. docs/data.md
describes the procedure. The copies show your patients, so the folder is closed to other accounts.
"""

from __future__ import annotations

import pathlib

from absl import flags

from experiments import flags as experiment_flags
from experiments import program, program_help, setting_flags
from preprocessing.deformed.config import DeformedConfig
from runkit import disk, folder_lock, overwriting, printable, private

FLAGS = flags.FLAGS
with program_help.group("Copies"):
    setting_flags.define(DeformedConfig)
flags.DEFINE_string(
    "manifest", None, "Manifest of the source scans: real CTs with masks of healthy pancreases."
)
flags.DEFINE_string("output", None, "Folder for the two sites; a stopped run resumes in it.")
flags.DEFINE_integer("workers", 1, "Copies to make at the same time.")
flags.DEFINE_bool("dry_run", False, "Print the cost and exit.")
experiment_flags.define_orientation()


def main(argv: list[str]) -> None:
    del argv
    from preprocessing import manifest, sources
    from preprocessing.deformed import deformed_cohort

    path = experiment_flags.required("manifest", "the manifest of the source scans")
    folder = pathlib.Path(
        experiment_flags.required("output", "the folder to write the two sites to")
    )
    listed = manifest.read(path, orientation=experiment_flags.orientation())
    config = experiment_flags.settings_of(DeformedConfig)
    overwriting.require_apart(
        {"--manifest": [path, *listed.files]},
        {},
        folders={"--output": [folder / site for site in config.counts]},
    )
    sources.require_readers(listed)
    need = deformed_cohort.need(listed, config, FLAGS.workers)
    print(
        f"{sum(map(sum, config.counts.values()))} copies of {len(listed.included)} CTs: {need}",
        flush=True,
    )
    for line in deformed_cohort.notes([case.case_id for case in listed.included], config):
        print(line, flush=True)
    if FLAGS.dry_run:
        return
    if disk.free_bytes(folder) < need.disk_bytes:
        print(
            f"warning: {folder} has less free space than that; if the disk fills up, finished "
            "copies are kept",
            flush=True,
        )
    for case_id, remark in deformed_cohort.check_sources(listed, path).items():
        print(f"warning: {case_id}: {printable.text(remark, limit=1000)}", flush=True)
    folder_lock.hold(private.folder(folder))
    for site, written in deformed_cohort.generate(
        listed, config, folder, workers_count=FLAGS.workers
    ).items():
        print(f"{site}: {written}")


if __name__ == "__main__":
    program.run(main, required=["manifest", "output"], resumes=True)
