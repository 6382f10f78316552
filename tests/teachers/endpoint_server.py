"""A small HTTP server that speaks as vLLM, as llama.cpp, or in OpenAI's older form, over a tiny model."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

Dialect = Literal["vllm", "echo", "strings", "llama.cpp", "silent"]
Fault = Callable[[BaseHTTPRequestHandler], None]
BYTES = {character: byte for byte, character in bytes_to_unicode().items()}


class Served:
    """What the server answers with, and what it was asked.

    `faults` come before answers, one a question; `asked` are the bodies of all questions in their order.
    """

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerFast, dialect: Dialect) -> None:
        self.model, self.tokenizer, self.dialect = model, tokenizer, dialect
        self.faults: list[Fault] = []
        self.asked: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.models = ["tiny"]
        self.change: Callable[[dict[str, Any]], None] = lambda _answer: None
        self.under_way = self.most_under_way = 0
        self.slowness = 0.0
        self.usage = True
        self.lock = threading.Lock()

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/chat/completions"):
            text = f"[{body['messages'][-1]['content']}] of {len(body['messages'])}"
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            answer = {"choices": [choice], **self._usage(7, 5)}
        elif isinstance(body["prompt"], str):
            choice = {"index": 0, "text": f" after {body['prompt']}", "finish_reason": "length"}
            answer = {"choices": [choice], **self._usage(3, 2)}
        else:
            answer = self._completion(body)
        self.change(answer)
        return answer

    def _usage(self, prompt: int, written: int) -> dict[str, Any]:
        usage = {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
        return {"usage": usage} if self.usage else {}

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        ids, k = body["prompt"], body.get("logprobs", 0)
        with self.lock, torch.no_grad():
            log_p = self.model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
        written = int(log_p[-1].argmax())
        choice: dict[str, Any] = {"index": 0, "text": self.tokenizer.decode([written]), "finish_reason": "length"}
        if self.dialect == "llama.cpp":
            choice["logprobs"] = {"content": [self._told(written, log_p[-1], k)]}
        elif self.dialect != "silent":
            echoed = body.get("echo", False) and self.dialect in ("echo", "strings")
            tokens = [*ids, written] if echoed else [written]
            rows = [None, *log_p] if echoed else [log_p[-1]]
            choice["logprobs"] = {
                "tokens": [self._name(token) for token in tokens],
                "token_logprobs": [None if row is None else float(row[t]) for t, row in zip(tokens, rows, strict=True)],
                "top_logprobs": [
                    None if row is None else {self._name(i): float(row[i]) for i in self._likely(row, k, token)}
                    for token, row in zip(tokens, rows, strict=True)
                ],
            }
            if self.dialect == "vllm" and "prompt_logprobs" in body:
                choice["prompt_logprobs"] = [None] + [
                    {
                        str(index): {"logprob": float(row[index]), "rank": rank, "decoded_token": self._text(index)}
                        for rank, index in enumerate(self._likely(row, body["prompt_logprobs"], token), 1)
                    }
                    for token, row in zip(ids[1:], log_p[:-1], strict=True)
                ]
        return {"model": "tiny", "choices": [choice], **self._usage(len(ids), 1)}

    def _likely(self, row: Tensor, k: int, token: int) -> list[int]:
        """The k likeliest, and the real token, as vLLM has it."""
        likely: list[int] = row.topk(k).indices.tolist()
        return likely if token in likely else [*likely, token]

    def _told(self, token: int, row: Tensor, k: int) -> dict[str, Any]:
        def one(index: int) -> dict[str, Any]:
            token = self.tokenizer.convert_ids_to_tokens(index)
            special = index in self.tokenizer.all_special_ids
            written = list(token.encode()) if special else [BYTES[character] for character in token]
            return {"id": index, "token": self._text(index), "bytes": written, "logprob": float(row[index])}

        return {**one(token), "top_logprobs": [one(index) for index in row.topk(k).indices.tolist()]}

    def _name(self, index: int) -> str:
        return self._text(index) if self.dialect == "strings" else f"token_id:{index}"

    def _text(self, index: int) -> str:
        return str(self.tokenizer.decode([index]))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Served

    def do_GET(self) -> None:
        if self.path == "/v1/models" and self.served.models:
            send(self, {"data": [{"id": name} for name in self.served.models]})
        else:
            send(self, {"error": {"message": "no such page"}}, 404)

    def do_POST(self) -> None:
        served = self.served
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with served.lock:
            served.asked.append(body)
            served.times.append(time.monotonic())
            served.headers.append(dict(self.headers))
            served.under_way += 1
            served.most_under_way = max(served.most_under_way, served.under_way)
            fault = served.faults.pop(0) if served.faults else None
        try:
            time.sleep(served.slowness)
            if fault is not None:
                fault(self)
            elif body["model"] not in ("tiny", *served.models):
                send(self, {"error": {"message": f"The model `{body['model']}` does not exist."}}, 404)
            else:
                send(self, served.answer(self.path, body))
        finally:
            with served.lock:
                served.under_way -= 1

    def log_message(self, *_: Any) -> None:
        pass


def send(handler: BaseHTTPRequestHandler, body: object, status: int = 200, **headers: str) -> None:
    """Answers with JSON, or with bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def busy(status: int, wait: str | None = None) -> Fault:
    """An answer that it is busy."""
    headers = {} if wait is None else {"Retry_After": wait}
    return lambda handler: send(handler, {"error": {"message": "too many"}}, status, **headers)


def cut(handler: BaseHTTPRequestHandler) -> None:
    """An answer that breaks off."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.close_connection = True


def no_json(handler: BaseHTTPRequestHandler) -> None:
    """The page of something that stands in between."""
    send(handler, b"<html>it works</html>")


def slow(seconds: float) -> Fault:
    """An answer that comes too late."""

    def fault(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return fault


@contextmanager
def serving(served: Served) -> Iterator[str]:
    """The url of a server with these answers."""
    handler = type("Handler", (_Handler,), {"served": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
