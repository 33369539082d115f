"""Sends webhooks: signed, one App after the other's order, one attempt each, every attempt recorded.

GitHub never sends a delivery again by itself (its "handling failed deliveries" page), so neither does
this; the App asks for a redelivery through the API, and the second attempt keeps the delivery id. A
receiver has ten seconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import json
import queue
import random
import threading
import time

import httpx

from sandbox.forge.records import Delivery
from sandbox.forge.state import Forge

TIMEOUT_SECONDS = 10.0


def sign(secret: str, body: bytes) -> str:
    """The value of X-Hub-Signature-256 (GitHub docs, "Validating webhook deliveries")."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class Dispatcher:
    def __init__(self, forge: Forge) -> None:
        self.forge = forge
        self.queues: dict[int, queue.Queue[int | None]] = {}
        self.threads: list[threading.Thread] = []
        # The forge is on loopback and so are its receivers: a proxy of the environment must not come between.
        self.client = httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False)
        self.closed = False
        self.delayed: set[int] = set()
        self.seed: float | None = None
        self.random = random.Random()  # noqa: S311 - weather, not a secret

    def start(self) -> None:
        """Takes up what an earlier process of the forge left unsent."""
        self.forge.listeners.append(self.put)
        for delivery in self.forge.deliveries:
            if delivery.status == "queued":
                self.put(delivery)

    def put(self, delivery: Delivery) -> None:
        with self.forge.lock:
            if self.closed:
                return
            if delivery.app not in self.queues:
                self.queues[delivery.app] = queue.Queue()
                thread = threading.Thread(
                    target=self._work, args=(delivery.app,), name=f"webhooks-{delivery.app}", daemon=True
                )
                self.threads.append(thread)
                thread.start()
            self.queues[delivery.app].put(delivery.id)

    def redeliver(self, delivery: Delivery) -> Delivery:
        """A new attempt under the same delivery id, as a record of its own."""
        with self.forge.lock:
            again = dataclasses.replace(
                delivery, id=self.forge.next_id(), redelivery=True, status="queued", status_code=0,
                delivered_at="", duration=0.0, response_headers={}, response_body="",
            )  # fmt: skip
            self.forge.deliveries.put(again)
            self.put(again)
            return again

    def drain(self, seconds: float = 10.0) -> bool:
        """Waits until every delivery made so far has had its attempt."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with self.forge.lock:
                if not any(delivery.status == "queued" for delivery in self.forge.deliveries):
                    return True
            time.sleep(0.02)
        return False

    def close(self) -> None:
        with self.forge.lock:
            self.closed = True
            if self.put in self.forge.listeners:
                self.forge.listeners.remove(self.put)
            for waiting in self.queues.values():
                waiting.put(None)
        for thread in self.threads:
            thread.join(timeout=TIMEOUT_SECONDS + 2)
        self.client.close()

    def _work(self, app: int) -> None:
        while (key := self.queues[app].get()) is not None:
            with self.forge.lock:
                if self.closed:
                    return
                delivery = self.forge.deliveries.get(key)
            if delivery is not None and not self._held_back(delivery):
                self._attempt(delivery)

    def _held_back(self, delivery: Delivery) -> bool:
        """Whether the weather delays this delivery, so that later ones come first, or makes it vanish."""
        chaos = self.forge.faults.chaos
        if not chaos or delivery.id in self.delayed:
            return False
        self.delayed.add(delivery.id)
        if self._falls("lose"):
            with self.forge.lock:
                self.forge.deliveries.remove(delivery.id)
            return True
        if not self._falls("delay"):
            return False
        seconds = self.random.uniform(0.0, float(chaos.get("seconds", 0.5)))
        late = threading.Timer(seconds, self.put, (delivery,))
        late.daemon = True
        late.start()
        return True

    def _falls(self, what: str) -> bool:
        """A seeded throw: whether this mishap happens now."""
        chaos = self.forge.faults.chaos
        if not chaos:
            return False
        if self.seed != chaos.get("seed", 0):
            self.seed = chaos.get("seed", 0)
            self.random = random.Random(self.seed)  # noqa: S311 - weather, not a secret
        return self.random.random() < float(chaos.get(what, 0))

    def _attempt(self, delivery: Delivery) -> None:
        forge = self.forge
        app = forge.apps.get(delivery.app)
        if app is None or not app.webhook_url:
            return
        body = json.dumps(delivery.payload).encode()
        delivery.headers = delivery.headers | {"X-Hub-Signature-256": sign(app.webhook_secret, body)}
        with forge.lock:
            dropped = forge.faults.drop_deliveries > 0
            forge.faults.drop_deliveries -= int(dropped)
            twice = not dropped and forge.faults.duplicate > 0
            forge.faults.duplicate -= int(twice)
            dropped = dropped or self._falls("drop")
            twice = not dropped and (twice or self._falls("duplicate"))
        delivery.delivered_at = forge.now()
        if dropped:
            delivery.status, delivery.status_code = "failed to connect to host", 502
        else:
            self._post(delivery, app.webhook_url, body)
            if twice:
                with contextlib.suppress(httpx.HTTPError):
                    self.client.post(app.webhook_url, content=body, headers=delivery.headers)
        with forge.lock:
            if not self.closed:
                forge.deliveries.put(delivery)

    def _post(self, delivery: Delivery, url: str, body: bytes) -> None:
        begun = time.monotonic()
        try:
            answer = self.client.post(url, content=body, headers=delivery.headers)
        except httpx.TimeoutException:
            delivery.status, delivery.status_code = "timed out", 504
        except (httpx.HTTPError, httpx.InvalidURL):
            delivery.status, delivery.status_code = "failed to connect to host", 502
        else:
            delivery.status_code = answer.status_code
            delivery.status = "OK" if answer.is_success else f"Invalid HTTP Response: {answer.status_code}"
            delivery.response_headers = dict(answer.headers)
            delivery.response_body = answer.text[:65536]
        delivery.duration = time.monotonic() - begun
