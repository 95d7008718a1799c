"""The local Gemini as a process: its records, its addresses, its HTTP, its command."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from ops.local_stack.gemini_server import BODY_BYTES, STEPS, Call, GeminiServer, Plan, Step, main
from tests.ops.gemini_server.parts import IMAGE_MODEL, TEXT_MODEL, ask, make_client, parts_of, running, status_of

ROOT = Path(__file__).parents[3]


# --- records and the two addresses for other processes


def test_the_busiest_minute_counts_what_arrived() -> None:
    server = GeminiServer(Plan())
    server.calls += [
        Call("m", at, status=status) for at, status in [(0, 200), (1, 429), (59, 200), (60, 200), (119, 200)]
    ]
    server.calls += [Call("other", 7.0)]
    assert server.stats()["busiest"] == {"m": 3, "other": 1}, "60 s later is another minute"


def test_stats_count_alike_calls_and_the_plan_can_be_changed_over_http() -> None:
    async def scenario() -> None:
        plan = Plan(script=[None, None, "503"])
        server = GeminiServer(plan)
        async with server as base_url, httpx2.AsyncClient(base_url=base_url) as http:
            client = make_client(base_url)
            steps: list[Step] = ["verify", "verify", "generate"]
            assert [await status_of(client, step) for step in steps] == [200, 200, 503]
            stats = (await http.get("/stats")).json()
            assert stats == server.stats()
            assert (stats["calls"], stats["answered"]) == (3, 2)
            assert stats["busiest"] == {TEXT_MODEL: 2, IMAGE_MODEL: 1}
            assert stats["groups"] == [
                {"model": TEXT_MODEL, "step": "verify", "store": False, "fault": None, "status": 200, "answered": True}
                | {"count": 2},
                {"model": IMAGE_MODEL, "step": "generate", "store": False, "fault": "503", "status": 503}
                | {"answered": False, "count": 1},
            ]
            change = {"per_minute": {IMAGE_MODEL: 9}, "per_day": None, "latency": 0.01, "rates": {"401": 1.0}}
            assert (await http.post("/plan", json=change)).status_code == 200
            assert (plan.per_minute, plan.latency, plan.rates) == ({IMAGE_MODEL: 9}, 0.01, {"401": 1.0})
            assert await status_of(client, "generate") == 401
            for wrong in ({"rates": {"explode": 1.0}, "latency": 5.0}, {"key": "x"}, {"latency": "slow"}, [1], "x"):
                response = await http.post("/plan", json=wrong)
                assert (response.status_code, response.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
            assert (plan.latency, plan.rates, plan.key) == (0.01, {"401": 1.0}, "test-key")
            assert (await http.get("/plan")).status_code == (await http.post("/v1/models")).status_code == 404
            await client.aio.aclose()
            client.close()

    asyncio.run(scenario())


def test_a_call_whose_client_has_gone_was_work_for_nobody() -> None:
    async def scenario() -> None:
        async with running(Plan(latency=0.2, jitter=0.0)) as (server, client):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await ask(client, "generate")
            (call,) = server.calls
            assert call.status is None  # under way
            while call.status is None:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert (call.status, call.answered) == (200, False)
            await ask(client, "verify")
            assert server.calls[1].answered

    asyncio.run(scenario())


def test_a_hundred_calls_at_once_are_all_answered() -> None:
    async def scenario() -> None:
        async with running(Plan(latency=0.1, thoughts=True)) as (server, client):
            steps: list[Step] = ["analyse", "generate", "verify", "other"] * 25
            answers = await asyncio.gather(*(ask(client, step) for step in steps))
            assert all(parts_of(answer) for answer in answers)
            assert sum(call.answered for call in server.calls) == 100

    asyncio.run(scenario())


def test_stopping_drops_calls_that_hang_and_can_be_repeated() -> None:
    async def scenario() -> None:
        async with running(Plan(script=["hang"])) as (server, client):
            waiting = asyncio.create_task(ask(client, "verify"))
            while not server.calls or not server.calls[0].fault:
                await asyncio.sleep(0.01)
            async with asyncio.timeout(5):
                await server.stop()
                with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)):
                    await waiting
            await server.stop()
            await server.start()  # and started again, the records go on
            assert len(server.calls) == 1

    asyncio.run(scenario())


def test_stopping_does_not_wait_for_a_client_that_never_reads() -> None:
    async def scenario() -> None:
        server = GeminiServer(Plan())
        server.calls += [Call(f"model-{n}", 0.0) for n in range(100_000)]  # 12 MB of stats: more than sockets buffer
        base_url = await server.start()
        # A bare socket: a stream would read ahead by itself.
        with socket.create_connection(("127.0.0.1", int(base_url.rsplit(":", 1)[1]))) as silent:
            silent.sendall(b"GET /stats HTTP/1.1\r\n\r\n")
            await asyncio.sleep(0.1)
            async with asyncio.timeout(5):
                await server.stop()

    asyncio.run(scenario())


# --- HTTP, spoken by hand


def talk(*requests: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Send the bytes on one connection; the answers until the server closes it, or one for each request."""

    async def scenario() -> list[tuple[int, dict[str, str], bytes]]:
        async with GeminiServer(Plan()) as base_url:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(base_url.rsplit(":", 1)[1]))
            writer.writelines(requests)
            answers = []
            try:
                for _ in requests:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
                    headers = dict(line.lower().split(": ", 1) for line in head[1:-1])
                    body = await reader.readexactly(int(headers.get("content-length", "0")))
                    answers.append((int(head[0].split()[1]), headers, body))
            except asyncio.IncompleteReadError as error:
                assert error.partial == b""
            finally:
                writer.close()
                await writer.wait_closed()
            return answers

    return asyncio.run(scenario())


def test_a_connection_is_kept_for_the_next_request_unless_told() -> None:
    stats = b"GET /stats HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /stats?a=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert [(status, h["connection"]) for status, h, _ in talk(stats, last, stats)] == [
        (200, "keep-alive"),
        (200, "close"),
    ]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"what\r\n\r\n", 400),
        (b"GET /stats HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST /plan HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST /plan HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 411),
        (b"POST /plan HTTP/1.1\r\n\r\n{}", 411),
        (b"POST /plan HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (f"POST /plan HTTP/1.1\r\nContent-Length: {BODY_BYTES + 1}\r\n\r\n".encode(), 413),
        (b"GET /stats HTTP/1.1\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", 431),
        (b"GET /stats HTTP/1.0\r\n\r\n", 505),
    ],
)
def test_what_is_not_http_or_too_large_is_refused_and_closed(request_bytes: bytes, status: int) -> None:
    ((seen, headers, body),) = talk(request_bytes)
    assert (seen, headers["connection"]) == (status, "close")
    assert json.loads(body)["error"]["code"] == status


def test_a_client_that_sends_too_much_still_reads_the_refusal() -> None:
    async def scenario() -> None:
        async with GeminiServer(Plan()) as base_url, httpx2.AsyncClient() as http:
            response = await http.post(f"{base_url}/plan", content=bytes(BODY_BYTES + 1))
            assert response.status_code == 413

    asyncio.run(scenario())


def test_a_body_that_waits_to_be_invited_is_invited() -> None:
    head = b"POST /plan HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    assert [status for status, _, _ in talk(head, b"{}")] == [100, 200]


# --- the command


def test_the_command_prints_its_address_and_serves_until_terminated() -> None:
    command = [
        sys.executable,
        "-m",
        "ops.local_stack.gemini_server",
        "--latency",
        "0.01",
        "--per-minute",
        "2",
        "--fault",
        "503=0",
    ]
    command += ["--per-minute", f"{IMAGE_MODEL}=0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        try:
            base_url = process.stdout.readline().strip()

            async def scenario() -> list[int]:
                client = make_client(base_url)
                steps: list[Step] = ["generate", "verify", "analyse", "verify"]
                statuses = [await status_of(client, step) for step in steps]
                await client.aio.aclose()
                client.close()
                return statuses

            assert asyncio.run(scenario()) == [429, 200, 200, 429]
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


@pytest.mark.parametrize("arguments", [["--fault", "explode=0.1"], ["--fault", "503=often"], ["--latency", "-1"]])
def test_the_command_refuses_what_it_cannot_do(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_the_steps_are_those_of_the_pipeline_and_one_for_anything_else() -> None:
    assert STEPS == ("analyse", "generate", "verify", "other")
