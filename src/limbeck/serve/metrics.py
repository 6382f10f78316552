"""What the server counts, in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from limbeck.serve.batching import Batcher
from limbeck.serve.live import Live

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
INPUTS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counts of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "limbeck_requests", "Requests to /predict, by status.", ["status"], registry=self._registry
        )
        self.seconds = Histogram(
            "limbeck_request_seconds", "From a request's arrival to its answer.", buckets=SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self.batch = Histogram(
            "limbeck_batch_inputs", "Inputs that were run together.", ["model"], buckets=INPUTS,
            registry=self._registry,
        )  # fmt: skip
        self._waiting = Gauge("limbeck_waiting_inputs", "Inputs that wait or are run.", registry=self._registry)
        self._model = Gauge(
            "limbeck_model_info", "The version that answers.", ["model", "version", "task"], registry=self._registry
        )
        self._changes = Gauge(
            "limbeck_versions", "New versions that were taken or refused.", ["model", "result"], registry=self._registry
        )

    def text(self, models: dict[str, Live], student: Batcher) -> bytes:
        """All of it now."""
        self._waiting.set(student.inputs)
        self._model.clear()
        for name, live in models.items():
            self._model.labels(name, live.current.name, live.card.task).set(1)
            for result, count in live.changes.items():
                self._changes.labels(name, result).set(count)
        return generate_latest(self._registry)
