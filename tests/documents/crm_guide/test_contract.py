"""What the customer's pages promise: events, error codes, limits, how long what is kept, what a customer may do."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from ops.generate import schemas
from shared.decisions.fairness import TIER_WEIGHTS
from shared.decisions.forecast import cost_per_image_usd
from shared.errors import ErrorCode
from shared.events import EVENTS
from shared.manifest.checks import BATCH_ID
from shared.messages import EVENT_TYPE_PREFIX
from shared.model import BatchState, Control, ImageState, Tier
from shared.topology import topology
from tests.documents.crm_guide.parts import (
    CHECKS,
    CODES,
    DOCS,
    EN,
    GIVEN,
    GUIDES,
    KINDS,
    LIMITS,
    MANIFEST,
    PAGES,
    PT,
    SETTINGS,
    STATUS,
    TERRAFORM,
    blocks,
    first_words,
    mib,
    prose,
    tables,
)

FINAL_CODES = {code.value for code in ErrorCode} - {ErrorCode.CONFIGURATION.value}  # of which no image's error is
KEPT = topology().policies["keep"]


def number(page: str, value: int) -> str:
    """A number as the page's language writes it."""
    return f"{value:,}" if page is not PT else f"{value:,}".replace(",", ".")


def row(page: str, table: int, at: int) -> str:
    return " | ".join(tables(page)[table][at])


# --- events


@pytest.mark.parametrize("page", GUIDES)
def test_the_table_of_events_is_complete(page: str) -> None:
    kinds = [EVENT_TYPE_PREFIX + kind for kind in EVENTS if kind.startswith("batch.")]
    assert first_words(tables(PAGES[page])[KINDS]) == kinds
    for kind in set(re.findall(r"ruum\.[a-z]+\.[a-z]+", PAGES[page])):
        assert kind in kinds or kind == "ruum.quota.changed", "which the guide says that nobody receives"


def example(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "examples/events" / f"{kind}.json").read_text("utf-8"))["data"]
    return found


@pytest.mark.parametrize("page", GUIDES)
def test_one_event_of_each_type_is_shown(page: str) -> None:
    """In the order of the table, exactly as docs/examples/events/ has it, which is made from the code."""
    shown = [json.loads(block) for block in blocks(PAGES[page], "json") if '"images"' not in block]
    assert shown == [example(kind) for kind in EVENTS if kind.startswith("batch.")]


def test_the_example_of_a_completion_adds_up() -> None:
    completed = example("batch.completed")
    assert {state.value for state in ImageState} == set(completed["counts"])
    assert sum(completed["counts"].values()) == completed["total"]
    assert completed["counts"]["completed"] / completed["total"] == completed["successRate"]
    assert completed["costUsd"] == completed["priceUsd"], "a normal batch"
    assert completed["costUsd"] == pytest.approx(completed["total"] * cost_per_image_usd(SETTINGS), rel=0.1)
    assert completed["outcome"] == "completed_with_failures", "the case that readers must see"


@pytest.mark.parametrize("page", GUIDES)
def test_every_outcome_is_named(page: str) -> None:
    for outcome in ("completed", "completed_with_failures", "cancelled"):
        assert f"`{outcome}`" in PAGES[page]


@pytest.mark.parametrize("page", GUIDES)
def test_the_fields_of_status_are_all_there(page: str) -> None:
    table = tables(PAGES[page])[STATUS]
    assert sorted(first_words(table)) == sorted(schemas.event_data("batch.progress")["properties"])
    states = {state.value for state in BatchState} - {"closed", "rejected"}
    outcomes = {"completed", "completed_with_failures", "cancelled"}
    (said,) = (cells[1] for cells in table if cells[0] == "`state`")
    assert set(re.findall(r"`(\w+)`", said)) == states | outcomes
    (said,) = (cells[1] for cells in table if cells[0] == "`control`")
    assert set(re.findall(r"`(\w+)`", said)) == {control.value for control in Control}


@pytest.mark.parametrize("page", GUIDES)
def test_the_senders_account_is_terraforms(page: str) -> None:
    """Whoever trusts a push must know the account that signs it."""
    assert re.search(r'for_each += toset\(\[[^\]]*"webhook"', TERRAFORM)
    webhook = TERRAFORM.partition('resource "google_pubsub_subscription" "webhook" {')[2].partition("\n}\n")[0]
    assert 'google_service_account.caller["webhook"].email' in webhook
    assert re.search(
        r'"google_service_account" "caller" \{.*?account_id += "\$\{var\.name\}-\$\{each\.key\}"', TERRAFORM, re.DOTALL
    )
    checks = {cells[0].strip("`"): cells[1] for cells in tables(PAGES[page])[CHECKS]}
    assert list(checks)[1:] == ["iss", "exp", "aud", "email", "email_verified"]
    account = "`ruum-webhook@ruum-prod.iam.gserviceaccount.com`"
    assert account in checks["email"]
    assert account == tables(PAGES[page])[GIVEN][5][1]
    assert checks["email_verified"] == "`true`"


@pytest.mark.parametrize("page", GUIDES)
def test_what_is_said_of_pushes_is_what_is_set_up(page: str) -> None:
    text = prose(PAGES[page])
    webhook = TERRAFORM.partition('resource "google_pubsub_subscription" "webhook" {')[2].partition("\n}\n")[0]
    assert "oidc_token" in webhook
    assert "write_metadata = true" in webhook, "attributes as headers, the body as it is"
    assert '"604800s"' in webhook, "a week"
    assert f"{KEPT.ack_deadline_seconds} s" in text
    least, most = KEPT.retry_minimum_seconds, KEPT.retry_maximum_seconds // 60
    assert re.search(rf"{least} s (to|a) {most} min", text)
    assert re.search(r"for a week|durante uma semana", text)
    assert re.search(r"200, 201, 202 (or|ou) 204", text), "what Pub/Sub takes for an acknowledgement"


# --- how long what is kept


def kept_days() -> dict[str, int]:
    """Days by what terraform/ deletes after them."""
    (lifecycle,) = re.findall(r"lifecycle = \{(.*?)\n  \}\n", TERRAFORM, re.DOTALL)
    found = {f"{bucket}/{prefix}": int(days) for bucket, rules in re.findall(r"(\w+) += \[(.*)\]", lifecycle) for prefix, days in re.findall(r'prefix = "([^"]*)", days = (\d+)', rules)}  # fmt: skip
    assert re.search(r"source += \[\]", lifecycle)
    return found


@pytest.mark.parametrize("page", [*GUIDES, "data-protection.md"])
def test_retention_is_what_terraform_sets(page: str) -> None:
    text = " ".join((DOCS / page).read_text("utf-8").split())
    days = kept_days()
    assert days == {"intake/": 90, "work/work/": 30, "work/cache/": 31}
    assert re.search(r"\b90 (days|dias)", text)
    if page == "data-protection.md":
        for number in (30, 31, 365):
            assert re.search(rf"\b{number} days", text), number
        assert re.search(r"retention_duration_seconds = each\.key == \"work\" \? 0 : 604800", TERRAFORM)
        assert "seven days" in text


# --- error codes


@pytest.mark.parametrize("page", GUIDES)
def test_every_error_code_stands_once(page: str) -> None:
    named = first_words(tables(PAGES[page])[CODES])
    assert len(named) == len(set(named))
    assert set(named) == FINAL_CODES
    everywhere = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", PAGES[page]))
    others = {
        "open_plan",
        "completed_with_failures",
        "email_verified",
        "project_id",
        "results_kept_days",
        "documents_kept_days",
        "signed_link_seconds",
    }
    assert everywhere - others <= {code.value for code in ErrorCode}


def test_every_error_code_stands_once_on_the_manifests_page() -> None:
    named = first_words(tables(MANIFEST)[1])
    assert sorted(named) == sorted(code.value for code in ErrorCode)


# --- limits


@pytest.mark.parametrize("page", GUIDES)
def test_the_limits_are_the_settings(page: str) -> None:
    text, limits, photo = PAGES[page], SETTINGS.manifest, SETTINGS.photo
    to = "to" if text is EN else "a"
    assert row(text, LIMITS, 0).endswith(f"| 1 {to} {number(text, limits.max_images)}")
    assert row(text, LIMITS, 1).endswith(f"| {mib(limits.max_bytes)}")
    assert 50 <= photo.max_pixels / 10**6 < 55, "every camera that is sold as 50 megapixels"
    megapixels = "50 megapixels"
    for said in (mib(photo.max_bytes), megapixels, f"{photo.min_pixels_side} pixels"):
        assert said in row(text, LIMITS, 2)
    assert f" {number(text, photo.max_side_pixels)} pixels" in row(text, LIMITS, 3)
    assert "JPEG" in row(text, LIMITS, 3)
    per_minute = SETTINGS.limits[SETTINGS.gemini.image_model].per_minute
    assert re.search(rf": {per_minute} (images a minute|imagens por minuto)", row(text, LIMITS, 5))
    picture = next(cells for cells in tables(text)[CODES] if "`picture_too_large`" in cells[0])
    assert mib(photo.max_bytes) in picture[1]
    assert megapixels in picture[1]
    days = int(SETTINGS.cache.keep_seconds / 86_400)
    assert re.search(rf"{days} (days|dias)", prose(text))
    kept = re.search(r'variable "results_kept_days" \{.*?default += (\d+)', TERRAFORM, re.DOTALL)
    assert kept is not None
    assert kept[1] == "365"
    assert re.search(r"one year|um ano", row(text, LIMITS, 4))
    assert re.search(r"1 (to|a) 64", prose(text))
    assert BATCH_ID.fullmatch("a" * 64)
    assert not BATCH_ID.fullmatch("a" * 65)


@pytest.mark.parametrize("page", GUIDES)
def test_prices_are_the_settings(page: str) -> None:
    text = row(PAGES[page], LIMITS, 6)
    factors = {
        tier: float(factor.replace(",", ".")) for factor, tier in re.findall(r"× ([\d.,]+) (?:for|em) `(\w+)`", text)
    }
    tiers = SETTINGS.tiers
    assert factors == {
        "express": tiers.express_factor,
        "normal": tiers.normal_factor,
        "economy": tiers.economy_factor,
    }
    about = re.search(r"\$ ?(\d[.,]\d\d)", text)
    assert about is not None
    assert float(about[1].replace(",", ".")) == round(cost_per_image_usd(SETTINGS), 2)


@pytest.mark.parametrize(
    ("page", "words"), [("crm-guide.md", "60 %, 30 % and 10 % of the capacity"), ("crm-guide.pt-BR.md", "60%, 30% e 10% da capacidade")]
)  # fmt: skip
def test_the_tiers_turns_are_the_schedulers(page: str, words: str) -> None:
    assert words in prose(PAGES[page])
    assert [TIER_WEIGHTS[tier] for tier in (Tier.EXPRESS, Tier.NORMAL, Tier.ECONOMY)] == [6, 3, 1]


@pytest.mark.parametrize("page", [*GUIDES, "manifest.md"])
def test_three_times_is_the_settings(page: str) -> None:
    cells = {code: cells[1] for table in tables(PAGES[page]) for cells in table for code in first_words([cells])}
    assert SETTINGS.attempts.max_attempts == SETTINGS.staging.max_generations == 3
    assert re.search(r"three times|três vezes", cells["source_unavailable"])


# --- what a customer may do in the cloud


def test_a_customers_grants_reach_what_the_guide_names() -> None:
    """Each object the guide tells a customer to read or write lies below a prefix that terraform/ lets its CRM have."""
    granted = {}
    for name in ("crm_writes", "crm_reads"):
        block = TERRAFORM.partition(f'"google_storage_bucket_iam_member" "{name}" {{')[2].partition("\n}\n")[0]
        found = re.findall(r"\b(manifests|results)/\$\{(?:each\.key|pair\[0\])\}/", block)
        granted[name] = [f"{folder}/acme/" for folder in found]
    (dropped,) = re.findall(r"cp first\.json gs://[\w-]+/(\S+?)`", EN)
    assert any(dropped.startswith(prefix) for prefix in granted["crm_writes"])
    (fetched,) = re.findall(r"cp -r gs://[\w-]+/(\S+) \.`", EN)
    assert any(fetched.startswith(prefix) for prefix in granted["crm_reads"])
    (errors,) = re.findall(r"`gs://<results>/(manifests/<client>/<name>\.errors\.json)`", EN)
    errors = errors.replace("<client>", "acme").replace("<name>", "first.json")
    assert any(errors.startswith(prefix) for prefix in granted["crm_reads"]), f"the CRM may not read {errors}"


@pytest.mark.xfail(
    '"source"' not in TERRAFORM.partition('"crm_writes" {')[2].partition("\n}\n")[0], reason="no CRM may write photos"
)
def test_a_customer_may_write_photos_where_the_guide_says() -> None:
    block = TERRAFORM.partition('"google_storage_bucket_iam_member" "crm_writes" {')[2].partition("\n}\n")[0]
    assert '"source"' in block
    assert "gs://ruum-prod-ruum-source/acme/" in EN


def test_a_customer_may_list_what_the_guide_copies_whole() -> None:
    """`cp -r` lists, and a list is a call on the bucket: a condition on objects' names alone refuses it."""
    block = TERRAFORM.partition('"google_storage_bucket_iam_member" "crm_reads" {')[2].partition("\n}\n")[0]
    assert "cp -r gs://" not in EN or "objectListPrefix" in block or "condition" not in block


def test_the_example_subscription_is_what_terraform_would_call_it() -> None:
    block = TERRAFORM.partition('"google_pubsub_subscription" "crm" {')[2].partition("\n}\n")[0]
    pattern = re.search(r'name += "\$\{var\.name\}(-batch-events-)\$\{each\.key\}"', block)
    assert pattern is not None
    assert re.search(rf"`ruum{pattern[1]}acme`", EN)
