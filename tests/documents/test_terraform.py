"""What terraform/ says about our code, held against the code. The HCL itself is checked by Terraform's own tests."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from shared.decisions.image import HEARTBEAT_STALE_SECONDS
from shared.settings import LIMITS, Settings, from_environment
from shared.telemetry import FIELDS, LogEvent
from shared.topology import topology

ROOT = Path(__file__).parents[2]
TERRAFORM = {path.name: path.read_text() for path in (ROOT / "terraform").glob("*.tf")}
ALL = "\n".join(TERRAFORM.values())
BOOTSTRAP = (ROOT / "terraform/bootstrap/main.tf").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()


# --- what dashboards and alerts read


def test_metrics_read_what_the_code_says() -> None:
    metrics = TERRAFORM["metrics.tf"]
    events = set(re.findall(r'\bevent = "(\w+)"', metrics))
    assert len(events) >= 10
    assert events <= {event.value for event in LogEvent}
    labels = set(re.findall(r'"(\w+)"', " ".join(re.findall(r"labels = \[([^]]*)\]", metrics))))
    values = set(re.findall(r'\bfield = "(\w+)"', metrics))
    also = set(re.findall(r"jsonPayload\.(\w+)=", metrics))
    assert labels | values | also <= FIELDS.keys()
    assert {
        "state",
        "client",
        "model",
        "costUsd",
        "durationMs",
        "share",
        "circuit",
        "daySpent",
    } <= labels | values | also


def test_charts_and_alerts_name_metrics_that_exist() -> None:
    made = set(re.findall(r"^    (\w+) += \{ event =", TERRAFORM["metrics.tf"], re.MULTILINE))
    read = set(re.findall(r"\$\{local\.user\}/(\w+)", TERRAFORM["monitoring.tf"] + TERRAFORM["dashboard.tf"]))
    read |= set(re.findall(r'metric = "(\w+)"', TERRAFORM["monitoring.tf"]))
    sums = set(re.findall(r"\$\{local\.promql\}_(\w+)_sum\b", TERRAFORM["dashboard.tf"]))
    assert sums, "dollars spent are a sum"
    distributions = TERRAFORM["metrics.tf"].partition("distributions = {")[2]
    assert sums <= set(re.findall(r"^    (\w+) += \{ event =", distributions, re.MULTILINE)), "only they have a sum"
    read |= sums
    read |= set(re.findall(r"\$\{local\.promql\}_(\w+)\{", TERRAFORM["monitoring.tf"]))
    assert read <= made, read - made
    assert made <= read, f"measured for nobody: {made - read}"


def test_a_runbook_names_charts_that_exist() -> None:
    titles = re.findall(r'title += "([^"]+)"', TERRAFORM["dashboard.tf"])
    named = re.findall(r'dashboard\'s "([^"]+)"', " ".join(OPERATIONS.split()))
    assert len(named) >= 4
    for name in named:
        assert any(title.startswith(name) for title in titles), name


def test_what_functions_settle_is_counted_too() -> None:
    """The dead_letter door settles images: a filter on workers alone would miss what failed for good."""
    for name in ("monitoring.tf", "dashboard.tf"):
        for line in TERRAFORM[name].splitlines():
            if "${local.user}/" in line:
                assert "${local.any_of_us}" in line, line
            assert 'resource.type=\\"cloud_run_worker_pool\\"' not in line, line


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_contents_of_the_runbook_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", OPERATIONS, re.MULTILINE)
    anchors = {slug(heading) for heading in headings}
    named = re.findall(r"\]\(#([^)]+)\)", " ".join(OPERATIONS.split()))
    assert set(named) <= anchors, set(named) - anchors
    contents = OPERATIONS.partition("**Contents**")[2].partition("\n## ")[0]
    listed = re.findall(r"\]\(#([^)]+)\)", contents)
    chapters = [slug(heading) for heading in re.findall(r"^### (.+)$", OPERATIONS, re.MULTILINE)]
    assert [anchor for anchor in listed if anchor in chapters] == chapters, "each chapter, in the order they stand"


def test_the_cost_counts_every_condition_of_an_alert() -> None:
    """Alerting is billed by the condition."""
    text = TERRAFORM["monitoring.tf"]
    lines = len(re.findall(r"^    [a-z]+-[a-z-]+ = \{$", text, re.MULTILINE))
    oldest = text.partition("  oldest = {\n")[2].partition("\n  }")[0].count(" = { subscriptions")
    fixed = len(re.findall(r"^  conditions \{$", text, re.MULTILINE)) - 1  # that of the lines stands for each of them
    burning = 2 * 2  # two rates, each over two windows
    cost = (ROOT / "docs/cost.md").read_text()
    assert lines >= 6
    assert oldest == 2
    assert f"{lines + oldest + fixed + burning} conditions" in cost


def test_a_symptom_has_its_commands() -> None:
    chapter = OPERATIONS.partition("## Runbook by symptom")[2].partition("\n## ")[0]
    symptoms = re.split(r"^### ", chapter, flags=re.MULTILINE)[1:]
    assert len(symptoms) >= 10
    for symptom in symptoms:
        assert "ruum-batch " in symptom or "gcloud " in symptom, symptom.splitlines()[0]


def test_a_runbook_names_accounts_that_exist() -> None:
    named = set(re.findall(r"\bruum-([a-z-]+)(?=@|` (?:needs|has lost))", OPERATIONS))
    callers = re.search(r'"caller" \{\n  for_each += toset\(\[([^]]+)\]', TERRAFORM["iam.tf"])
    assert callers is not None
    known = set(re.findall(r'"([\w-]+)"', callers[1])) | {"plan", "apply", "stage-image"}
    assert len(named) >= 4
    assert named <= known, named - known


def test_every_alert_has_its_runbook() -> None:
    told = set(re.findall(r'docs/operations\.md, \\"([\w-]+)\\"', TERRAFORM["monitoring.tf"]))
    told |= set(re.findall(r"^    ([a-z]+-[a-z-]+) = \{$", TERRAFORM["monitoring.tf"], re.MULTILINE))
    told = {name for name in told if "$" not in name}
    assert len(told) >= 10
    chapters = set(re.findall(r"^### `([\w-]+)`", OPERATIONS, re.MULTILINE))
    assert told == chapters


@pytest.mark.parametrize(
    "chapter", re.split(r"^### ", OPERATIONS, flags=re.MULTILINE)[1:], ids=lambda c: c.split("\n")[0]
)
def test_a_runbook_says_what_to_do(chapter: str) -> None:
    if chapter.startswith("`"):
        for part in ("**It means**", "**Look**", "**Do**", "**It worked**"):
            assert part in chapter, part
        assert "ruum-batch " in chapter or "gcloud " in chapter


# --- one truth for numbers


def test_numbers_stand_in_one_file() -> None:
    raw = json.loads((ROOT / "shared/topology.json").read_text())
    assert raw["limits"] == {
        model: {
            kind: most for kind, most in (("per_minute", limit.per_minute), ("concurrent", limit.concurrent)) if most
        }
        for model, limit in LIMITS.items()
    }
    assert 'jsondecode(file("${path.module}/../shared/topology.json"))' in TERRAFORM["locals.tf"]
    for number in (
        "ack_deadline_seconds",
        "max_delivery_attempts",
        "minimum_backoff",
        "maximum_backoff",
        "timeout_seconds",
    ):
        for value in re.findall(rf"\b{number} *= (.+)", ALL):
            assert "policy" in value or "policies" in value or "topology" in value, f"{number} = {value}"


def test_doors_are_called_where_internal_callers_may() -> None:
    """An internal-only function answers Pub/Sub and the scheduler 404 anywhere but on its run.app address."""
    assert not re.search(r"google_cloudfunctions2_function\.this\[[^]]+\]\.(url|uri)\b", ALL)
    addresses = re.findall(r"google_cloudfunctions2_function\.this\[[^]]+\]\.service_config\[0\]\.uri", ALL)
    assert len(addresses) == 5, (
        "the dead-letter push; the scheduler's and the completed batch's calls, and their audience"
    )
    door = (ROOT / "functions/reconcile/main.py").read_text("utf-8")
    (path,) = re.findall(r'^SETTLE_PATH = "(/\w+)"', door, re.MULTILINE)
    assert re.findall(r'push_endpoint += "\$\{.*\}(/\w+)"', ALL) == [path]
    assert re.search(r"push_endpoint = push_config\.value\n.*?audience +=  *push_config\.value", ALL, re.DOTALL)


def test_agents_exist_before_they_are_granted_anything() -> None:
    """A role cannot be granted to a service agent that does not exist."""
    for kind, name, body in re.findall(r'^resource "(\w+)" "(\w+)" \{\n(.*?)^\}', ALL, re.MULTILINE | re.DOTALL):
        if re.search(r"member += local\.\w+_agent", body):
            assert "time_sleep.identities" in body, f"{kind}.{name}"
    agents = set(re.findall(r"@gcp-sa-(\w+)\.", ALL))
    assert agents == {"eventarc", "pubsub"}
    for text in (TERRAFORM["services.tf"], BOOTSTRAP):
        identities = text.partition('"google_project_service_identity" "this"')[2].partition("\n}")[0]
        for agent in agents:
            assert f'"{agent}.googleapis.com"' in identities


def test_what_needs_a_right_at_once_waits_for_it() -> None:
    """A grant takes up to a minute to be known: what Google checks at its creation must not follow it directly."""
    waits = dict(
        re.findall(r'^resource "time_sleep" "(\w+)" \{\n(.*?)^\}', TERRAFORM["services.tf"], re.MULTILINE | re.DOTALL)
    )
    for resource, file, wait, grants in (
        ("google_cloudfunctions2_function", "functions.tf", "functions_build", 3),
        ("google_cloudfunctions2_function", "functions.tf", "agents", 3),
        ("google_eventarc_trigger", "functions.tf", "agents", 3),
        ("google_cloud_run_v2_worker_pool", "worker.tf", "worker", 1),
    ):
        body = TERRAFORM[file].partition(f'resource "{resource}"')[2].partition("\n}\n")[0]
        assert f"time_sleep.{wait}" in body, resource
        assert len(re.findall(r"google_\w+_iam_member\.\w+", waits[wait])) == grants, wait
        assert not re.findall(r"depends_on = \[[^]]*_iam_member\.(?!invoker)", body), f"{resource} waits for no grant"


def gcloud(folder: Path) -> str:
    """Make a gcloud in `folder` that writes its calls down; return the PATH that finds it."""
    script = folder / "gcloud"
    script.write_text(
        "#!/bin/bash\n"
        'echo "$*" >> "$(dirname "$0")/calls"\n'
        'case "$1 $2" in\n'
        '"projects describe") echo 123 ;;\n'
        '"functions describe") echo projects/p/locations/r/triggers/ruum-ingest-4711 ;;\n'
        '"eventarc triggers") echo projects/p/subscriptions/eventarc-r-$4-sub-9 ;;\n'
        "esac\n"
    )
    script.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_after_an_apply_the_subscriptions_of_eventarc_are_set(tmp_path: Path) -> None:
    script = ROOT / "terraform/after-apply.sh"
    environment = {"PATH": gcloud(tmp_path), "PROJECT": "p", "REGION": "r"}
    subprocess.run(["bash", str(script)], env=environment, check=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    for trigger in ("ruum-ingest-4711", "ruum-aggregate"):
        subscription = f"projects/p/subscriptions/eventarc-r-{trigger}-sub-9"
        (update,) = [c for c in calls if c.startswith(f"pubsub subscriptions update {subscription} ")]
        deadline = re.search(r"--ack-deadline=(\d+)", update)
        assert deadline is not None
        assert int(deadline[1]) == 600, "the most there is"
        assert all(int(deadline[1]) > door.timeout_seconds for door in topology().doors.values())
        assert "--dead-letter-topic=projects/p/topics/ruum-undelivered-events" in update
        assert 'name                       = "${var.name}-undelivered-events"' in TERRAFORM["pubsub.tf"]
        assert [c for c in calls if c.startswith(f"pubsub subscriptions add-iam-policy-binding {subscription} ")]
    assert calls[-1].startswith("scheduler jobs run ruum-reconcile "), "an apply may have set an old number of workers"


def test_after_an_apply_nothing_is_skipped_in_silence(tmp_path: Path) -> None:
    script = ROOT / "terraform/after-apply.sh"
    for environment in ({}, {"PROJECT": "p"}):
        environment["PATH"] = gcloud(tmp_path)
        ended = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True)
        assert ended.returncode != 0
        assert "set " in ended.stderr
    (tmp_path / "gcloud").write_text("#!/bin/bash\nexit 1\n")
    ended = subprocess.run(
        ["bash", str(script)], env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PROJECT": "p", "REGION": "r"},
        capture_output=True,
    )  # fmt: skip
    assert ended.returncode != 0


def test_deadlines_fit_each_other() -> None:
    known, settings = topology(), Settings()
    stage = known.policies["stage_image"]
    assert settings.worker.lease_seconds == stage.ack_deadline_seconds
    assert HEARTBEAT_STALE_SECONDS < stage.ack_deadline_seconds, (
        "when its message comes again, a dead worker's claim must be dead"
    )
    assert settings.worker.heartbeat_seconds * 3 < HEARTBEAT_STALE_SECONDS, "two beats may be lost"
    assert stage.max_deliveries is not None
    assert settings.attempts.max_attempts < stage.max_deliveries, "deploys and restarts need deliveries too"
    assert settings.manifest.ingest_seconds <= known.doors["ingest"].timeout_seconds - 60, (
        "one chunk must fit behind it"
    )
    assert known.doors["dead_letter"].timeout_seconds < known.policies["door"].ack_deadline_seconds
    assert all(door.timeout_seconds <= 540 for door in known.doors.values()), "an event-driven function's most"
    assert 2 * stage.retry_maximum_seconds < settings.reconcile.untouched_seconds, "a backoff is no forgotten image"
    assert settings.fleet.images_per_instance == settings.worker.in_flight


def test_every_door_is_everywhere() -> None:
    folders = {path.name for path in (ROOT / "functions").iterdir() if (path / "main.py").is_file()}
    permissions = json.loads((ROOT / "shared/permissions.json").read_text())
    assert folders == permissions.keys()
    assert folders - {"stage_image"} == topology().doors.keys()
    listed = re.search(r"functions += toset\(\[([^]]+)\]\)", TERRAFORM["locals.tf"])
    assert listed is not None
    assert set(re.findall(r'"(\w+)"', listed[1])) == topology().doors.keys()


def test_doors_are_granted_what_the_table_says_and_nothing_else() -> None:
    """Every grant to a door's account is made from shared/permissions.json, which another test holds against the calls."""
    blocks = re.findall(r'^resource "(\w+)" "(\w+)" \{\n(.*?)^\}', ALL, re.MULTILINE | re.DOTALL)
    to_doors = [
        (kind, name, body)
        for kind, name, body in blocks
        if "google_service_account.door[each" in body and "member " in body
    ]
    assert len(to_doors) == 8
    for kind, name, body in to_doors:
        each = re.search(r"for_each += (.+?)\n  \w", body, re.DOTALL)
        assert each is not None, name
        assert re.search(r"local\.(grants|on_\w+|permissions)", each[1]), f"{kind}.{name} is granted by another rule"
    verbs = {
        call.partition(":")[0]
        for calls in json.loads((ROOT / "shared/permissions.json").read_text()).values()
        for call in calls
    }
    for verb in verbs:
        assert f'"{verb}"' in TERRAFORM["iam.tf"], f"nothing grants {verb}"
    assert not re.search(r"roles/(owner|editor|\w+\.admin)\b", TERRAFORM["iam.tf"])


def test_the_local_stack_is_made_from_the_same_file() -> None:
    stack = (ROOT / "ops/local_stack/stack.py").read_text()
    assert "topology().topics" in stack or "known.topics" in stack
    assert 'topology().doors["aggregate"]' in stack
    for literal in ("document.v1.updated", "batches/{batch}", "stage-image"):
        assert literal not in stack, f"{literal} stands in topology.json"


def test_settings_are_handed_over_by_their_names() -> None:
    names = set(re.findall(r"^ +(RUUM_\w+) +=", TERRAFORM["locals.tf"], re.MULTILINE))
    assert len(names) >= 12
    samples = {
        "RUUM_LIMITS": '{"runway": {"concurrent": 3}}',
        "RUUM_STAGING_MODEL": "preview",
        "RUUM_GOOGLE_DOCUMENTS_KEPT_SECONDS": str(90 * 86_400),
    }
    given = {name: samples.get(name, "7") for name in names}
    settings = from_environment(given)
    assert settings.limits["runway"].concurrent == 3
    assert settings.fleet.pool == settings.google.prefix == "7"


def test_settings_are_exported_as_a_shell_reads_them() -> None:
    """Limits are JSON, and a setting may hold an apostrophe."""
    written = re.search(r'"export \$\{name\}=\'\$\{replace\(value, "\'", "(.+?)"\)\}\'\\n"', TERRAFORM["outputs.tf"])
    assert written is not None
    quote = json.loads(f'"{written[1]}"')
    value = '{"a": 1} it\'s $HOME `x`'
    shell = f"export RUUM_X='{value.replace(chr(39), quote)}'\n"
    ended = subprocess.run(["bash", "-c", f'{shell}printf %s "$RUUM_X"'], capture_output=True, text=True, check=True)
    assert ended.stdout == value


def variables_of(text: str) -> list[tuple[str, str]]:
    return re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', text, re.MULTILINE | re.DOTALL)


def test_every_variable_has_its_reason() -> None:
    for name, body in variables_of(ALL + BOOTSTRAP):
        described = re.search(r'description = "([^"]+)"', body)
        assert described is not None, name
        assert len(described[1]) > 20, name
        for message in re.findall(r'error_message = "([^"]+)"', body):
            assert name in message or "crm " in message, f"{name}: {message}"


# Variables' fields that any value of their type will do for, and why.
ANY_VALUE = {
    "audience": "whatever the CRM's endpoint compares the token with",
    "express": "all three at once, by values(var.tier_factors)",
    "normal": "as express",
    "economy": "as express",
}


def test_every_variable_is_validated() -> None:
    """Wrong input is refused by us, in words, and not by Google in the middle of an apply."""
    conditions = " ".join(re.findall(r"condition +=(.*?)error_message", ALL, re.DOTALL))
    for name, body in variables_of(ALL + BOOTSTRAP):
        if re.search(r"type += bool$", body, re.MULTILINE):
            continue  # both values are right
        assert "validation {" in body, name
        shape = re.search(r"type += (?:map\()?object\(\{\n(.*?)^  \}\)", body, re.MULTILINE | re.DOTALL)
        assert shape or "object(" not in body, name
        for field in re.findall(r"^ +(\w+) += ", shape[1] if shape else "", re.MULTILINE):
            assert re.search(rf"\.{field}\b", conditions) or field in ANY_VALUE, f"{name}.{field}"


def test_every_validation_refuses_something() -> None:
    """As often as a variable has validations, at least, Terraform's own tests see it refuse."""
    for text, file in ((ALL, "refusals"), (BOOTSTRAP, "bootstrap")):
        tried = (ROOT / f"terraform/tests/{file}.tftest.hcl").read_text()
        for name, body in variables_of(text):
            times = len(re.findall(rf"expect_failures = \[var\.{name}\]", tried))
            assert times >= body.count("validation {"), f"{file}: {name}"


# --- words


def steps() -> list[str]:
    """The first deployment's steps, from the first to the last."""
    chapter = OPERATIONS.partition("## First deployment")[2].partition("\n## ")[0]
    found = re.split(r"^(\d+)\. ", chapter, flags=re.MULTILINE)[1:]
    assert found[::2] == [str(number + 1) for number in range(len(found) // 2)]
    return found[1::2]


def test_the_first_deployment_gives_what_it_asks_for() -> None:
    production = (ROOT / "terraform/examples/production/main.tf").read_text()
    bootstrapped = next(index for index, step in enumerate(steps()) if "cd terraform/bootstrap" in step)
    edited = next(index for index, step in enumerate(steps()) if "**Edit these values**" in step)
    pushed = next(index for index, step in enumerate(steps()) if step.startswith("**Push to main"))
    tried = next(index for index, step in enumerate(steps()) if step.startswith("**Try it"))
    assert bootstrapped < edited < pushed < tried
    # Every variable of the bootstrap that has no default, and the billing account, or the build knows of none.
    for name, body in variables_of(BOOTSTRAP):
        if "default" not in body or name == "billing_account":
            assert re.search(rf"-var '?{name}=", steps()[bootstrapped]), name
    grant = " ".join(steps()[bootstrapped + 1].replace("\\\n", " ").split())
    for account, role in (("apply", "costsManager"), ("plan", "viewer")):
        wanted = (
            rf"add-iam-policy-binding \$BILLING_ACCOUNT --member \S+ruum-{account}@\S+ --role roles/billing\.{role}"
        )
        assert re.search(wanted, grant), account
    # What is an example's is replaced.
    for value in ("region", "crm", "emails", "slack_channel", "vendor_limits", "budget"):
        assert re.search(rf"\b{value}\b", steps()[edited]), value
        assert re.search(rf"^ +{value} +=", production, re.MULTILINE), f"{value} is no longer to be edited"
    assert f"docs/operations.md, step {bootstrapped + 1}." in production
    assert f"docs/operations.md, step {edited + 1}," in production
    assert f"which step {tried + 1} does\nonce" in OPERATIONS
    added = next(index for index, step in enumerate(steps()) if step.startswith("**Add a client**"))
    assert f"(step {added + 1} adds them)" in steps()[edited]


def test_the_first_deployments_commands_are_where_they_work() -> None:
    """Each `cd` leads somewhere, and what is named by a path is there."""
    here = ROOT
    setup = False
    for command in re.split(
        r"\n|&&", "".join(re.findall(r"^   ```\n(.*?)^   ```", "\n".join(steps()), re.MULTILINE | re.DOTALL))
    ):
        if folder := re.match(r" *cd (\S+)", command):
            here = (here / folder[1]).resolve()
            assert here.is_dir(), command
        setup = setup or command.strip() == "make setup"
        if "terraform " in command:
            assert list(here.glob("*.tf")), f"{here}: {command}"
        if "ruum-batch " in command:
            assert command.strip().startswith(".venv/bin/ruum-batch "), "nothing puts it on the PATH"
            assert setup, "make setup makes it"
            for path in re.findall(r"samples/\S+", command):
                assert (here / path).is_file(), f"{here} has no {path}"
    assert here == ROOT
    assert setup


def test_operators_are_told_the_rights_they_need() -> None:
    """Their commands do what the doors do; Terraform gives the rights, the chapter says which."""
    chapter = OPERATIONS.partition("## Operators' rights")[2].partition("\n## ")[0]
    assert 'role_id     = "${replace(var.name, "-", "_")}_scaler"' in TERRAFORM["iam.tf"]
    assert "projects/$PROJECT/roles/ruum_scaler" in chapter
    assert "roles/iam.serviceAccountUser" in chapter
    assert "ruum-stage-image@$PROJECT.iam.gserviceaccount.com" in chapter
    granted = set(re.findall(r'"(roles/[\w.]+)"', TERRAFORM["operators.tf"]))
    assert len(granted) >= 9
    assert granted == set(re.findall(r"`(roles/[\w.]+)`", chapter))
    assert re.search(r"^  value += local\.settings$", TERRAFORM["outputs.tf"], re.MULTILINE)


def test_the_readme_shows_the_examples() -> None:
    readme = (ROOT / "terraform/README.md").read_text()
    blocks = re.findall(r"```hcl\n# (examples/\w+/main\.tf)\n(.*?)```", readme, re.DOTALL)
    assert {path for path, _ in blocks} == {"examples/minimal/main.tf", "examples/production/main.tf"}
    for path, block in blocks:
        assert block.strip() in (ROOT / "terraform" / path).read_text(), path
    for variable in re.findall(r'^variable "(\w+)"', TERRAFORM["variables.tf"], re.MULTILINE):
        assert f"`{variable}`" in readme, variable
