"""Makes what a federation needs to trust each other: an authority, the server's kit and one kit folder a site.

    python -m experiments.provision --output=federation --server_host=fl.example.org --sites=C1,C2

Send each site its own folder over a channel you trust; keep `authority` to yourself.
"""

from __future__ import annotations

from absl import flags

from experiments import flags as experiment_flags

FLAGS = flags.FLAGS
flags.DEFINE_string("output", None, "Folder of the kits.")
flags.DEFINE_list("server_host", ["localhost"], "Names or addresses under which sites reach the server; the first goes into their kits.")
flags.DEFINE_list("sites", ["C1", "C2"], "Names of the sites.")
flags.DEFINE_integer("port", 8443, "The server's port, written into the sites' kits.")
flags.DEFINE_integer("valid_days", 365, "Lifetime of the certificates.")
flags.DEFINE_bool("overwrite", False, "Replace kits that are there; the old ones stop working.")


def main(argv: list[str]) -> None:
    del argv
    from federated import provision

    output = experiment_flags.required("output", "the folder to write the kits to")
    folder = provision.provision(
        output, FLAGS.server_host, FLAGS.sites, port=FLAGS.port, valid_days=FLAGS.valid_days, overwrite=FLAGS.overwrite
    )
    print(f"{folder}: authority, server, {', '.join(FLAGS.sites)}")


if __name__ == "__main__":
    experiment_flags.run(main)
