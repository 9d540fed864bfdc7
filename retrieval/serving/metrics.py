"""Counters of the service, in the text format of Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Histogram:
    """Counts values by buckets.

    Args:
        bounds: The upper bounds of the buckets, ascending; one without a bound follows.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Counts a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str = "") -> Iterable[str]:
        """The lines of the histogram; `labels` are written as `endpoint="/v1/search",`."""
        total = 0
        for bound, count in zip((*(f"{bound:g}" for bound in self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels}le="{bound}"}} {total}'
        inner = labels.rstrip(",")
        yield f"{name}_sum{{{inner}}} {self._sum:.6f}" if inner else f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count{{{inner}}} {total}" if inner else f"{name}_count {total}"


class Metrics:
    """What the service counts. Its counters belong to the event loop, except those of reloads, which one thread changes."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(_SECONDS))
        self.batches = Histogram(_SIZES)
        self.reloads = 0
        self.reload_errors = 0

    def observe_request(self, endpoint: str, status: int, seconds: float) -> None:
        """Counts a request.

        Args:
            endpoint: The path of its route, such as "/v1/items/{id}"; not that of the request, of which there is no end.
            status: The status of the answer; 499 if the client has gone.
            seconds: From the first byte of the request to the last of the answer.
        """
        self.requests[endpoint, status] += 1
        self.seconds[endpoint].observe(seconds)

    def text(self, *, queue: int, capacity: int, items: int, generation: int) -> str:
        """The text that Prometheus reads."""
        lines = _header("retrieval_requests_total", "counter", "Requests by endpoint and status.")
        for (endpoint, status), count in sorted(self.requests.items()):
            lines.append(f'retrieval_requests_total{{endpoint="{endpoint}",status="{status}"}} {count}')
        lines += _header("retrieval_errors_total", "counter", "Requests with a status of 400 or more.")
        errors: Counter[int] = Counter()
        for (_, status), count in self.requests.items():
            errors[status] += count if status >= 400 else 0
        lines += [f'retrieval_errors_total{{status="{status}"}} {n}' for status, n in sorted(errors.items()) if n]
        lines += _header("retrieval_request_seconds", "histogram", "Seconds of a request.")
        for endpoint, histogram in sorted(self.seconds.items()):
            lines += histogram.lines("retrieval_request_seconds", f'endpoint="{endpoint}",')
        lines += _header("retrieval_batch_images", "histogram", "Images that passed the network together.")
        lines += self.batches.lines("retrieval_batch_images")
        for name, kind, text, value in (
            ("queue_images", "gauge", "Images that are read, wait or are embedded.", queue),
            ("queue_capacity", "gauge", "Images above which requests are answered by 503.", capacity),
            ("index_items", "gauge", "Items of the index.", items),
            ("index_generation", "gauge", "1 for the first index, one more for each that has replaced it.", generation),
            ("index_reloads_total", "counter", "Replaced indexes that were taken up.", self.reloads),
            ("index_reload_errors_total", "counter", "Replaced indexes that could not be read.", self.reload_errors),
        ):
            lines += [*_header(f"retrieval_{name}", kind, text), f"retrieval_{name} {value}"]
        return "\n".join(lines) + "\n"


def _header(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
