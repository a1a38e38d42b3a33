"""Runs led up to a point by hand, and what may go wrong there."""

import threading

from tests.federated.server.test_coordinator import Site


def finished_rounds(opened, **settings):
    """A run whose only round is over, and its two sites."""
    run = opened(num_rounds=1, **settings)
    sites = Site(run, "C1"), Site(run, "C2")
    for site in sites:
        site.push(1)
    run.lead.advance()
    return run, *sites


def fixed_models(run, *sites):
    for site in sites:
        run.lead.report_scores(site.name, 1, {"dice": 0.5})
        site.publish(f"{site.name}_FL_local")
        run.lead.declare_models(site.name, [f"{site.name}_FL_local"])
    run.lead.advance()


class Killed(BaseException):
    """Stands for a kill."""


def raising(error):
    raise error


def start_driving(lead):
    """Drives a coordinator in a thread; returns it."""
    thread = threading.Thread(target=lead.drive, daemon=True)
    thread.start()
    return thread


def interrupt(round_number):
    """As `on_train` of a toy trainer: Ctrl-C in the middle of a round."""
    raise KeyboardInterrupt
