"""Calls made by hand, which a site's own program would never make."""

import threading

SERVICE = "/weight_exchange.WeightExchange/"


class HalfOpen:
    """A stream of requests that stays silent until it is told to end."""

    def __init__(self, *messages):
        self._messages, self.over = messages, threading.Event()

    def __iter__(self):
        yield from self._messages
        self.over.wait(60)


def hold(channel, method, metadata, *messages):
    """Opens a call that sends `messages` and then stays silent; returns its stream and the call."""
    silent = HalfOpen(*messages)
    call = channel.stream_stream(SERVICE + method)(iter(silent), metadata=metadata)
    return silent, call


def ended(call, seconds=10):
    over = threading.Event()
    return not call.add_callback(over.set) or over.wait(seconds)
