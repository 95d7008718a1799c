"""The Gemini adapter's errors: ours, the vendor's, and none of them tells the key."""

from __future__ import annotations

import asyncio
import traceback

import pytest

from ops.local_stack.gemini_server import Fault, Step
from shared.errors import ConfigurationError, DailyQuotaSpent, ErrorCode, RuumError, Throttled, WorldError
from tests.adapters.gemini.parts import KEY, SETTINGS, STEPS, Rig, answer, ask, error_body


def everything_told(error: BaseException) -> str:
    """All that a log could say of an error: text, repr, and the traceback with its causes."""
    return "\n".join([str(error), repr(error), *traceback.format_exception(error)])


# --- our own configuration's fault


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", ["401", "403", "404_model"])
def test_permission_and_model_id_are_ours(rig: Rig, fault: Fault, step: Step) -> None:
    error = rig.call(step, fault)
    assert isinstance(error, ConfigurationError), repr(error)
    assert not isinstance(error, DailyQuotaSpent)


def test_a_bad_key_is_ours(rig: Rig) -> None:
    assert isinstance(rig.call("analyse", key="wrong-secret-key"), ConfigurationError)
    assert isinstance(rig.call("analyse", key="forbidden"), ConfigurationError)


def test_an_unknown_model_is_ours(rig: Rig) -> None:
    rig.server.plan.models = {SETTINGS.text_model}
    assert isinstance(rig.call("generate"), ConfigurationError)
    rig.server.plan.models = {SETTINGS.image_model}
    assert isinstance(rig.call("verify"), ConfigurationError)


def test_billing_or_region_is_ours(rig: Rig) -> None:
    body = error_body(400, "FAILED_PRECONDITION", "User location is not supported for the API use.")
    assert isinstance(rig.said(400, body), ConfigurationError)


@pytest.mark.parametrize("key", ["secret-key\n", "secret-key\u200b", "secret\r\nkey"])
def test_a_key_that_fits_in_no_header_is_ours(rig: Rig, key: str) -> None:
    """A key pasted with an invisible character or a line end: no request ever leaves, and no image may pay for it."""
    with pytest.raises(RuumError) as caught:
        rig.run(lambda: ask(rig.model(key), "analyse"))
    assert isinstance(caught.value, ConfigurationError)


def test_a_key_that_fits_in_no_header_is_told_to_nobody(rig: Rig) -> None:
    # Made here, so that no source line in a traceback holds it.
    secret = "".join(chr(ord("a") + place * 7 % 26) for place in range(8))
    key = f"{secret}\r\n{secret[::-1]}"
    with pytest.raises(RuumError) as caught:
        rig.run(lambda: ask(rig.model(key), "analyse"))
    told = everything_told(caught.value)
    assert secret not in told
    assert secret[::-1] not in told


@pytest.mark.parametrize("step", STEPS)
def test_a_spent_day_is_not_a_pause(rig: Rig, step: Step) -> None:
    error = rig.call(step, "429_day")
    assert isinstance(error, DailyQuotaSpent), "it comes with a RetryInfo of 7 s all the same: not to be believed"


def test_the_day_as_the_server_counts_it(rig: Rig) -> None:
    rig.server.plan.per_day = {"*": 1}
    answer(rig.call("analyse"))
    assert isinstance(rig.call("analyse"), DailyQuotaSpent)


# --- throttled


@pytest.mark.parametrize("step", STEPS)
def test_429_with_retry_info(rig: Rig, step: Step) -> None:
    error = rig.call(step, "429")
    assert isinstance(error, Throttled), repr(error)
    assert error.retry_after_seconds == 7.0


@pytest.mark.parametrize("step", STEPS)
def test_bare_429(rig: Rig, step: Step) -> None:
    error = rig.call(step, "429_bare")
    assert isinstance(error, Throttled), repr(error)
    assert error.retry_after_seconds is None


@pytest.mark.parametrize(
    ("delay", "expected"),
    [("0s", 0.0), ("7.5s", 7.5), ("0.250s", 0.25), ("3600s", 3600.0), ("soon", None), ("", None), (7, None), ("-1s", None)],
)  # fmt: skip
def test_the_delay_as_vendors_write_it(rig: Rig, delay: object, expected: float | None) -> None:
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    error = rig.said(429, error_body(429, "RESOURCE_EXHAUSTED", "slow down", retry))
    assert isinstance(error, Throttled), repr(error)
    assert error.retry_after_seconds == expected


@pytest.mark.parametrize("body", [b"", b"<html>429</html>", b"[]", b'{"error": null}', b'{"error": {"details": null}}',
                                  b'{"error": {"code": 429, "details": ["x", 7, {"violations": [null, {}]}]}}',
                                  b'{"error": {"code": 429, "details": [{"violations": null}]}}'])  # fmt: skip
def test_429_with_any_body_is_a_pause(rig: Rig, body: bytes) -> None:
    error = rig.said(429, body)
    assert isinstance(error, Throttled), repr(error)
    assert error.retry_after_seconds is None


# --- the world's fault


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", ["500", "503", "reset", "truncated_body"])
def test_vendor_unavailable(rig: Rig, fault: Fault, step: Step) -> None:
    error = rig.call(step, fault)
    assert isinstance(error, WorldError), repr(error)
    assert error.code == ErrorCode.VENDOR_UNAVAILABLE


@pytest.mark.parametrize("status", [408, 499, 502, 504, 529])
@pytest.mark.parametrize("body", [b"", b"<html>Bad Gateway</html>", b"null", b'{"error": "x"}'])
def test_other_servers_faults_whatever_they_say(rig: Rig, status: int, body: bytes) -> None:
    error = rig.said(status, body)
    assert isinstance(error, WorldError), repr(error)
    assert error.code == ErrorCode.VENDOR_UNAVAILABLE


def test_nobody_listens(rig: Rig) -> None:
    model = rig.model(base_url="http://127.0.0.1:9")
    with pytest.raises(WorldError) as caught:
        rig.run(lambda: ask(model, "analyse"))
    assert caught.value.code == ErrorCode.VENDOR_UNAVAILABLE


@pytest.mark.parametrize("step", STEPS)
def test_a_hanging_vendor_is_given_up(rig: Rig, step: Step) -> None:
    error = rig.call(step, "hang", text_seconds=0.15, image_seconds=0.15)
    assert isinstance(error, WorldError), repr(error)
    assert error.code == ErrorCode.VENDOR_TIMEOUT


def test_the_deadline_is_of_the_whole_call(rig: Rig) -> None:
    """The client's own is per read: a vendor that drips a byte now and then would never be given up."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        except OSError:
            writer.close()

    async def work() -> tuple[RuumError, float]:
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        model = rig.model(base_url=base, text_seconds=0.2, image_seconds=0.2)
        started = asyncio.get_running_loop().time()
        try:
            await ask(model, "analyse")
        except RuumError as error:
            return error, asyncio.get_running_loop().time() - started
        finally:
            server.close()
        raise AssertionError

    error, seconds = rig.run(work)
    assert isinstance(error, WorldError)
    assert error.code == ErrorCode.VENDOR_TIMEOUT
    assert seconds < 2.0


def test_text_and_image_have_their_own_deadlines(rig: Rig) -> None:
    options = {"text_seconds": 0.2, "image_seconds": 60.0}
    error = rig.call("verify", "hang", **options)
    assert isinstance(error, WorldError)
    assert error.code == ErrorCode.VENDOR_TIMEOUT
    rig.server.plan.latency = {"generate": 0.3}  # longer than the text's deadline
    rig.server.plan.jitter = 0.0
    answer(rig.call("generate", **options))


def test_cancelling_is_no_error_of_the_vendor(rig: Rig) -> None:
    rig.server.plan.script = ["hang"]
    model = rig.model()

    async def work() -> bool:
        task = asyncio.create_task(ask(model, "analyse"))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert rig.run(work)


# --- secrets


def test_the_key_is_in_no_error(rig: Rig) -> None:
    secret = "AIza-very-secret"
    errors: list[BaseException] = []
    for step in STEPS:
        result = rig.call(step, key=secret)
        assert isinstance(result, BaseException)
        errors.append(result)
    rig.server.plan.key = secret
    faults: tuple[Fault, ...] = ("500", "429", "429_day", "429_bare", "401", "403", "404_model", "safety", "blocked", "empty",
                                 "malformed_json", "bad_base64", "reset", "truncated_body", "hang")  # fmt: skip
    for fault in faults:
        result = rig.call("generate", fault, key=secret, image_seconds=0.2)
        assert isinstance(result, BaseException), fault
        errors.append(result)
    for status in (400, 401, 403, 404, 429, 500):
        details = {"reason": "API_KEY_INVALID" if status == 400 else "x", "metadata": {"key": secret}}
        result = rig.said(status, error_body(status, f"KEY {secret}", f"API key {secret} is bad", details), key=secret)
        assert isinstance(result, BaseException), status
        errors.append(result)
    assert [repr(error) for error in errors if secret in everything_told(error)] == []


def test_no_text_of_the_vendors_is_in_an_error(rig: Rig) -> None:
    """Not even its status: whoever stands between us and the vendor may write what it likes there."""
    for status in (400, 404, 409, 422):
        error = rig.said(status, error_body(status, "ECHO test-key", "API key test-key is odd"))
        assert isinstance(error, BaseException)
        assert KEY not in everything_told(error)
