"""The guide's programs as a customer runs them.

On a live stack: a manifest dropped, each event sent twice and handled once, the pictures fetched. And the webhook against
tokens that Google signs, and tokens that it would never sign.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from google.api_core.exceptions import DeadlineExceeded
from google.pubsub_v1 import PubsubMessage, SubscriberAsyncClient

from ops.local_stack.stack import PROJECT, Options, subscription_request
from shared.adapters.google import clients
from shared.messages import structured
from shared.topology import EVENTS_SUBSCRIPTION, EVENTS_TOPIC, topology
from tests.e2e import test_stack
from tests.e2e.conftest import clean_environment
from tests.e2e.test_stack import World, batch_of, run

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
ACK_SECONDS = 10  # the shortest Pub/Sub takes: what a program did not acknowledge comes again within it
BAD = b'{"clientName": "acme", "images": [{"url": "http://x/y.jpg"}, {}]}'
NODE = shutil.which("node")
COMMANDS = {"python": [sys.executable, "subscribe.py"], **({"node": [NODE, "subscribe.mjs"]} if NODE else {})}
# A manifest with problems is dropped by the program of each language.
WANTED = Counter({"ruum.batch.accepted": 1, "ruum.batch.rejected": len(COMMANDS), "ruum.batch.completed": 1})
NO_NODE = "not run: node is not installed: sudo apt-get install nodejs"
LANGUAGES = ["python", pytest.param("node", marks=pytest.mark.skipif(NODE is None and os.environ.get("CI") != "true", reason=NO_NODE))]  # fmt: skip
# A shell's background job has Ctrl-C ignored, and its children inherit that: Python then never hears of it.
HEARS_CTRL_C = (
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
)
ENDS = {"python": signal.SIGINT, "node": signal.SIGTERM}  # Ctrl-C, and what a service manager sends


class Program:
    """A subscriber of a customer's, in a process of its own; killed at the end of the test, however that comes."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self.subscription = f"ruum-batch-events-acme-{name}"
        self.lines: list[str] = []
        self._environment = dict(environment)
        self._said = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *HEARS_CTRL_C,
            *COMMANDS[self.name],
            PROJECT,
            self.subscription,
            cwd=EXAMPLES,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await asyncio.gather(self._process.wait(), self._reading)
        if error is not None:
            print(f"{self.name}:", *self.lines, sep="\n  ")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._said:
                self.lines.append(line.decode().rstrip("\n"))
                self._said.notify_all()
        async with self._said:
            self._said.notify_all()

    async def says(self, line: str) -> None:
        """Wait for a line of its."""
        async with asyncio.timeout(60), self._said:
            await self._said.wait_for(lambda: line in self.lines or self._process.returncode is not None)
        assert line in self.lines, f"{self.name} ended with {self._process.returncode} before it said {line!r}"

    async def end(self) -> None:
        """QuotaRequest it to end, as its user does."""
        assert self._process.returncode is None, f"{self.name} ended by itself: {self._process.returncode}"
        how = ENDS[self.name]
        self._process.send_signal(how)
        async with asyncio.timeout(40):  # a pull under way may take its 30 s
            code = await self._process.wait()
        assert code in (0, -how, 128 + how), f"{self.name} ended with {code}"


async def twice(here: World) -> list[dict[str, object]]:
    """Publish every event again under its own id, until all that must come have; each event once, in the order they came."""
    events: dict[str, dict[str, object]] = {}
    publisher, _ = clients.pubsub_clients(here.stack.environment)
    try:
        async with asyncio.timeout(test_stack.BATCH_SECONDS):
            while not WANTED <= Counter(str(event["type"]) for event in events.values()):
                for found in await here.queue.pull(EVENTS_SUBSCRIPTION, 100, 2.0):
                    identity = found.attributes["ce-id"]
                    if identity not in events:
                        events[identity] = structured(dict(found.attributes), found.data)
                        copy = PubsubMessage(data=found.data, attributes=dict(found.attributes))
                        await publisher.publish(topic=f"projects/{PROJECT}/topics/{EVENTS_TOPIC}", messages=[copy])
                    await here.queue.ack(EVENTS_SUBSCRIPTION, [found.ack_id])
    finally:
        await publisher.transport.close()
    return list(events.values())


async def told(here: World, programs: list[Program], identity: str) -> None:
    """A last event of a kind that no program knows: wait until each has said that it came."""
    publisher, _ = clients.pubsub_clients(here.stack.environment)
    attributes = {"ce-id": identity, "ce-type": "ruum.batch.imagined", "client": "acme"}
    message = PubsubMessage(data=b'{"more": 1}', attributes=attributes)
    await publisher.publish(topic=f"projects/{PROJECT}/topics/{EVENTS_TOPIC}", messages=[message])
    await publisher.transport.close()
    for program in programs:
        await program.says(f"{identity}: ruum.batch.imagined")


async def left(subscriber: SubscriberAsyncClient, subscription: str) -> set[str]:
    """The ids of what was not acknowledged: it comes again within the deadline."""
    path = f"projects/{PROJECT}/subscriptions/{subscription}"
    found: set[str] = set()
    try:
        async with asyncio.timeout(ACK_SECONDS + 3):
            while True:
                try:
                    pulled = await subscriber.pull(subscription=path, max_messages=100, timeout=ACK_SECONDS + 3)
                except DeadlineExceeded:
                    continue
                found |= {one.message.attributes["ce-id"] for one in pulled.received_messages}
    except TimeoutError:
        return found


async def run_to_its_end(name: str, environment: Mapping[str, str], what: str, *arguments: object) -> list[str]:
    """Run submit or results to its end; its lines."""
    command, script = COMMANDS[name]
    ran = await asyncio.create_subprocess_exec(
        str(command), f"{what}{Path(script).suffix}", *map(str, arguments), cwd=EXAMPLES, env=dict(environment),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, problems = await ran.communicate()
    assert ran.returncode == 0, problems.decode()
    return out.decode().splitlines()


async def fetched(here: World, name: str, environment: Mapping[str, str], folder: Path) -> None:
    """The program that fetches results writes what the report lists, and says what failed."""
    said = await run_to_its_end(name, environment, "results", "results", "acme.b1", 1, folder)
    assert said == ["0 APT 0: 0-APT-0.jpg", "1 APT 1: 1-APT-1.jpg", said[2]]
    assert said[2].startswith("2 APT 2: source_not_found: ")
    assert sorted(path.name for path in folder.iterdir()) == ["0-APT-0.jpg", "1-APT-1.jpg"]
    for path in folder.iterdir():
        got = await here.target.backend.objects.get("results", f"results/acme/b1/images/{path.name}")
        assert got is not None
        assert got[1] == path.read_bytes()


@test_stack.pytestmark
def test_the_guides_programs_on_a_stack(tmp_path: Path) -> None:
    assert NODE or os.environ.get("CI") != "true", "node is not installed: sudo apt-get install nodejs"
    batch = batch_of(tmp_path, 2, "photos/none.jpg")

    async def scenario(here: World) -> None:
        host = here.stack.environment[clients.PUBSUB_EMULATOR]
        storage = here.stack.environment[clients.STORAGE_EMULATOR]
        environment = clean_environment(PUBSUB_EMULATOR_HOST=host, STORAGE_EMULATOR_HOST=storage)
        for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "PYTHONPATH"):
            environment.pop(name, None)
        publisher, subscriber = clients.pubsub_clients(here.stack.environment)
        async with AsyncExitStack() as running:
            running.push_async_callback(publisher.transport.close)
            running.push_async_callback(subscriber.transport.close)
            programs = [Program(name, environment) for name in COMMANDS]
            for program in programs:
                request = subscription_request(EVENTS_TOPIC, program.subscription, topology().policies["keep"])
                request |= {"ack_deadline_seconds": ACK_SECONDS, "filter": 'attributes.client = "acme"'}
                await subscriber.create_subscription(request=request)
                await running.enter_async_context(program)
            for name in COMMANDS:
                bad = tmp_path / f"bad {name}.json"
                bad.write_bytes(BAD)
                said = await run_to_its_end(name, environment, "submit", "intake", "acme", bad)
                assert said == [f"gs://intake/manifests/acme/{bad.name}"]
            await here.submit(batch)
            events = await twice(here)
            # The second comes after the first was acknowledged, with everything before it: the programs pull in turns.
            await told(here, programs, "first")
            await told(here, programs, "second")
            for program in programs:
                await program.end()
            for name in COMMANDS:
                await fetched(here, name, environment, tmp_path / name)
            unacked = await asyncio.gather(*(left(subscriber, program.subscription) for program in programs))
        data = {str(event["type"]): event["data"] for event in events}
        completed, rejected = data["ruum.batch.completed"], data["ruum.batch.rejected"]
        assert isinstance(completed, dict)
        assert isinstance(rejected, dict)
        assert rejected["problems"] > 1
        completion = [
            "acme.b1: 2 of 3 staged, 1 failed",
            f"  pictures and errors: {completed['reports']['results.jsonl']['uri']}",
        ]
        rejections = [
            f"gs://intake/manifests/acme/bad {name}.json: rejected (problems: {rejected['problems']}): "
            f"{rejected['firstProblems'][0]}"
            for name in COMMANDS
        ]
        known = ("ruum.batch.completed", "ruum.batch.rejected")
        others = [f"{event['id']}: {event['type']}" for event in events if event["type"] not in known]
        ends = [f"{identity}: ruum.batch.imagined" for identity in ("first", "second")]
        for program in programs:
            assert set(Counter(program.lines).values()) == {1}, f"{program.name} told an event twice"
            more = set(program.lines) - {*completion, *rejections, *others, *ends}
            assert {*completion, *rejections, *others, *ends} <= set(program.lines), program.name
            # Progress may come behind the completion, and then behind our look at the events too.
            assert all(line.endswith(": ruum.batch.progress") for line in more), (program.name, more)
            at = program.lines.index(completion[0])
            assert program.lines[at + 1] == completion[1], program.name
        for program, ids in zip(programs, unacked, strict=True):
            assert ids <= {"second"}, f"{program.name} left {ids} unacknowledged"

    run(tmp_path, Options(), scenario)
    if NODE is None:
        pytest.skip("not run: node is not installed, so only the Python program was; sudo apt-get install nodejs")


# --- the webhook

AUDIENCE = "https://crm.example.com/hooks/ruum"
SENDER = "ruum-webhook@ruum-prod.iam.gserviceaccount.com"
KEY_ID = "local-1"
KEY, OTHER_KEY = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
PEM = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(document: dict[str, Any]) -> str:
    return b64(json.dumps(document).encode())


def signed_by(key: rsa.RSAPrivateKey) -> Callable[[bytes], bytes]:
    return lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def token(header: dict[str, Any] | None = None, sign: Callable[[bytes], bytes] = signed_by(KEY), **claims: Any) -> str:
    """A token as Pub/Sub sends it, but for what is given; a claim of None is left out."""
    now = int(time.time())
    good = {
        "aud": AUDIENCE, "azp": "113", "email": SENDER, "email_verified": True, "exp": now + 3600, "iat": now,
        "iss": "https://accounts.google.com", "sub": "113",
    }  # fmt: skip
    body = {name: value for name, value in (good | claims).items() if value is not None}
    head = {"alg": "RS256", "kid": KEY_ID, "typ": "JWT"} | (header or {})
    signing = f"{part(head)}.{part(body)}"
    return f"{signing}.{b64(sign(signing.encode()))}"


def tampered() -> str:
    """A right token whose claims were exchanged after it was signed."""
    (head, _, signature), (_, body, _) = token(email="crm@evil.example").split("."), token().split(".")
    return f"{head}.{body}.{signature}"


def refused() -> dict[str, str | None]:
    """What must not pass, by what is wrong with it: the whole header, None for no header."""
    now = int(time.time())
    tokens = {
        "another account": token(email="crm@evil.iam.gserviceaccount.com"),
        "an account that only begins so": token(email=SENDER + ".evil.example"),
        "no email": token(email=None),
        "an email not verified": token(email_verified=False),
        "email_verified as text": token(email_verified="true"),
        "no word on email_verified": token(email_verified=None),
        "another audience": token(aud="https://other.example.com/hooks/ruum"),
        "no audience": token(aud=None),
        "expired": token(iat=now - 7200, exp=now - 3600),
        "no expiry": token(exp=None),
        "from the future": token(iat=now + 600, exp=now + 4200),
        "another issuer": token(iss="https://evil.example.com"),
        "signed by another key": token(sign=signed_by(OTHER_KEY)),
        "a key that Google does not know": token({"kid": "local-2"}, signed_by(OTHER_KEY)),
        "claims exchanged": tampered(),
        "alg none": token({"alg": "none"}, lambda data: b""),
        "alg None, signed": token({"alg": "None"}),
        "alg HS256 with the public key": token({"alg": "HS256"}, lambda data: hmac.digest(PEM, data, "sha256")),
        "not a token": "abc.def",
        "not even text": "...",
    }
    found: dict[str, str | None] = {name: f"Bearer {one}" for name, one in tokens.items()}
    return {**found, "no header": None, "nothing": "", "no bearer": f"Basic {token()}", "an empty one": "Bearer "}


@cache
def certificate() -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "local")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(
        name, name, KEY.public_key(), x509.random_serial_number(), now - timedelta(days=1), now + timedelta(days=1)
    )
    return made.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


class GooglesKeys:
    """Serves the keys at Google's paths on this machine; can be out of order, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.broken = False
        numbers = KEY.public_key().public_numbers()
        n, e = (b64(number.to_bytes((number.bit_length() + 7) // 8)) for number in (numbers.n, numbers.e))
        jwk = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": KEY_ID, "n": n, "e": e}
        files = {"/oauth2/v1/certs": {KEY_ID: certificate()}, "/oauth2/v3/certs": {"keys": [jwk]}}
        here = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                here.asked += 1
                self.send_response(500 if here.broken else 200)
                self.end_headers()
                self.wfile.write(json.dumps(files[self.path]).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator[Self]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def webhook_command(name: str, keys: str, port: int) -> list[str]:
    """The program as it stands, with Google's keys asked for at `keys`."""
    arguments = [str(port), AUDIENCE, SENDER]
    if name == "node":
        stub = f"const real = fetch; globalThis.fetch = (url) => real(url.replace('https://www.googleapis.com', '{keys}'));"
        return [NODE or "node", "--import", "data:text/javascript," + stub, "webhook.mjs", *arguments]
    prelude = (
        "import runpy, sys; from google.oauth2 import id_token as i; "
        f"i._GOOGLE_OAUTH2_CERTS_URL = i._GOOGLE_OAUTH2_CERTS_URL.replace('https://www.googleapis.com', '{keys}'); "
        "sys.argv[:1] = ['webhook.py']; runpy.run_path('webhook.py', run_name='__main__')"
    )
    return [sys.executable, "-c", prelude, *arguments]


@contextmanager
def webhook(name: str, keys: GooglesKeys) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The program, listening; its port. It is ended at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = clean_environment(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
    running = subprocess.Popen(
        webhook_command(name, keys.address, port), cwd=EXAMPLES, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert running.poll() is None, "it has ended"
                assert time.monotonic() < until, "it does not listen"
                time.sleep(0.05)
        yield port, running
    finally:
        running.kill()
        running.wait()
        if running.stdout:
            running.stdout.close()


def post(port: int, authorization: str | None, event: dict[str, Any]) -> int:
    """One push, as Pub/Sub makes it of an event; the answer's status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = dict(event["attributes"])
    if authorization is not None:
        headers["Authorization"] = authorization
    connection.request("POST", "/hooks/ruum", json.dumps(event["data"]), headers)
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_webhook_takes_nobodys_word_but_ours(name: str) -> None:
    events = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((EXAMPLES / "events").iterdir())}
    completed, paused = events["batch.completed"], events["batch.paused"]
    with GooglesKeys().serving() as keys, webhook(name, keys) as (port, running):
        keys.broken = True
        assert post(port, f"Bearer {token()}", completed) == 503, "without keys it comes again"
        keys.broken = False
        wrong = {why: post(port, header, completed) for why, header in refused().items()}
        assert set(wrong.values()) == {401}, {why: status for why, status in wrong.items() if status != 401}
        assert [post(port, f"Bearer {token()}", event) for event in (completed, completed, paused)] == [204, 204, 204]
        assert post(port, f"bearer {token(iss='accounts.google.com')}", completed) == 204
        assert keys.asked <= 3, "the keys are asked for again and again"
        assert running.stdout is not None
        lines = [running.stdout.readline().rstrip("\n") for _ in range(2)]
        running.terminate()
        lines += running.stdout.read().splitlines()
    assert lines == [
        "acme.may-12/1: ruum.batch.completed completed_with_failures",
        "acme.may-13/paused/1: ruum.batch.paused",
    ], "nothing refused was handled, and no event twice"


def usage(command: list[str]) -> str:
    ran = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode != 0
    return ran.stderr


@pytest.mark.parametrize("name", LANGUAGES)
@pytest.mark.parametrize("what", ["subscribe", "submit", "results", "webhook"])
def test_without_arguments_each_program_says_how_it_is_called(name: str, what: str) -> None:
    suffix = {"python": "py", "node": "mjs"}[name]
    said = usage([sys.executable if name == "python" else str(NODE), f"{what}.{suffix}"])
    assert f"{name} {what}.{suffix} " in said
    assert "Traceback" not in said
