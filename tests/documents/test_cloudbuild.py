"""cloudbuild.yaml and the triggers that run it: what is tested, what is planned, and what an approval guards."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = (ROOT / "cloudbuild.yaml").read_text("utf-8")
BOOTSTRAP = (ROOT / "terraform/bootstrap/main.tf").read_text("utf-8")
OPERATIONS = (ROOT / "docs/operations.md").read_text("utf-8")


def steps() -> dict[str, str]:
    """Return the steps of cloudbuild.yaml by their ids, each with its text."""
    found = re.split(r"^  - id: (\S+)$", BUILD.partition("availableSecrets:")[0], flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def resource(kind: str, name: str) -> str:
    """Return the body of a resource of the bootstrap."""
    found = re.search(rf'^resource "{kind}" "{name}" \{{\n(.*?)^\}}', BOOTSTRAP, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


def script_of(step: str, **substitutions: str) -> str:
    """Return a step's script as Cloud Build would hand it to the shell."""
    text = steps()[step].partition("      - |\n")[2]
    for name, value in substitutions.items():
        text = text.replace(f"${{{name}}}", value).replace(f"${name}", value)
    return re.sub(r"^ {8}", "", text, flags=re.MULTILINE).replace("$$", "$")


def programs(folder: Path, **replies: str) -> dict[str, str]:
    """Make programs in `folder` that write their calls down and run a line of shell; return their environment."""
    for name, reply in replies.items():
        program = folder / name
        program.write_text(f'#!/bin/bash\necho "{name} $*" >> "{folder}/calls"\n{reply}\n')
        program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


# --- what runs


def test_every_build_step_is_pinned() -> None:
    images = re.findall(r"^    name: (\S+)$", BUILD, re.MULTILINE) + re.findall(
        r'^ +name += "([^"]+)"$', resource("google_cloudbuild_trigger", "apply").partition("build {")[2], re.MULTILINE
    )
    assert len(images) == 8
    for image in images:
        assert re.search(r":\d+\.\d+\.\d+(-\w+)?$", image), image


def test_a_commit_is_tested_before_its_image_is_pushed() -> None:
    assert list(steps()) == ["test", "terraform-checks", "image", "plan", "ask-for-approval"]
    assert "make test" in steps()["test"]
    assert "waitFor: [test, terraform-checks]" in steps()["image"]
    assert "RepoDigests" in steps()["image"], "the plan names the image by its digest"


@pytest.mark.parametrize("step", ["test", "terraform-checks"])
def test_a_new_plan_skips_the_tests(tmp_path: Path, step: str) -> None:
    """An apply that stopped halfway cannot be repeated; the tests of its commit need not be."""
    environment = programs(tmp_path, make="", terraform="", **{"apt-get": ""})
    for skip, ran in (("yes", False), ("", True)):
        script = script_of(step, _SKIP_TESTS=skip)
        subprocess.run(["bash", "-ceu", script], env=environment, check=True)
        assert (tmp_path / "calls").exists() is ran


def test_a_new_plan_takes_the_image_that_was_tested(tmp_path: Path) -> None:
    here = {"_SKIP_TESTS": "yes", "_REGION": "r", "PROJECT_ID": "p", "_NAME": "ruum", "COMMIT_SHA": "abc"}
    script = script_of("image", **here).replace("/workspace", str(tmp_path))
    environment = programs(tmp_path, docker='[ "$1" != inspect ] || echo name@sha256:0')
    subprocess.run(["bash", "-ceu", script], env=environment, check=True)
    calls = (tmp_path / "calls").read_text()
    assert "docker pull r-docker.pkg.dev/p/ruum/stage-image:abc" in calls
    assert "build" not in calls
    assert "push" not in calls
    assert (tmp_path / "worker_image").read_text() == "name@sha256:0\n"


def test_a_commit_that_was_never_tested_gets_no_plan(tmp_path: Path) -> None:
    here = {"_SKIP_TESTS": "yes", "_REGION": "r", "PROJECT_ID": "p", "_NAME": "ruum", "COMMIT_SHA": "abc"}
    script = script_of("image", **here).replace("/workspace", str(tmp_path))
    ended = subprocess.run(
        ["bash", "-ceu", script], env=programs(tmp_path, docker="exit 1"), capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert "run the trigger ruum-plan" in ended.stderr


def test_a_plan_is_kept_with_all_it_was_made_from(tmp_path: Path) -> None:
    """What is applied is what was looked at, whatever main holds by then."""
    for folder in ("terraform/examples/production/.terraform", "terraform/.build", "shared", "functions"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").touch()
    (tmp_path / "terraform/examples/production/.terraform.lock.hcl").touch()
    (tmp_path / "plan.tfplan").touch()
    here = {
        "_STATE_BUCKET": "b", "COMMIT_SHA": "abc", "BUILD_ID": "77", "_CONFIGURATION": "terraform/examples/production",
        "_PLANS_TOPIC": "ruum-plans",
    }  # fmt: skip
    script = script_of("ask-for-approval", **here).replace("/workspace", str(tmp_path))
    subprocess.run(["bash", "-ceu", script], env=programs(tmp_path, gcloud=""), check=True)
    packed = subprocess.run(["tar", "--list", "--file", tmp_path / "plan.tgz"], capture_output=True, text=True).stdout
    names = set(packed.split())
    assert {"plan.tfplan", "configuration", "terraform/.build/file", "shared/file", "functions/file"} <= names
    assert "terraform/examples/production/.terraform.lock.hcl" in names
    assert not [name for name in names if "/.terraform/" in name]
    copied, published = (tmp_path / "calls").read_text().splitlines()
    assert copied.endswith(" gs://b/plans/abc/77.tgz"), "another plan of the same commit has another name"
    message = re.search(r"topics publish ruum-plans --message=(.*)", published)
    assert message is not None
    assert json.loads(message[1]) == {"plan": "gs://b/plans/abc/77.tgz"}


# --- what an approval guards


def test_what_tests_and_plans_cannot_deploy() -> None:
    """A commit, and each package its tests bring, runs as the plan's account without any approval."""
    for trigger in ("plan", "replan"):
        assert 'google_service_account.build["plan"].id' in resource("google_cloudbuild_trigger", trigger)
    granted = set()
    for body in re.findall(r'^resource "\w+_iam_member" "\w+" \{\n(.*?)^\}', BOOTSTRAP, re.MULTILINE | re.DOTALL):
        if 'build["plan"]' in body:
            granted |= set(re.findall(r'"(roles/[\w.]+)"', body))
    assert granted == {
        "roles/artifactregistry.writer", "roles/iam.securityReviewer", "roles/logging.logWriter", "roles/pubsub.publisher",
        "roles/secretmanager.secretAccessor", "roles/storage.objectCreator", "roles/storage.objectViewer", "roles/viewer",
    }  # fmt: skip
    assert "terraform" not in steps()["ask-for-approval"].partition("gcloud")[2], "nothing is applied here"
    assert not re.search(r"terraform .*\bapply\b", BUILD)


def test_a_pull_request_is_tested_as_a_commit_is_and_can_do_nothing() -> None:
    """Its code is anybody's: the account may write a log, and its steps stand in the bootstrap."""
    body = resource("google_cloudbuild_trigger", "check")
    assert 'google_service_account.build["check"].id' in body
    assert "filename" not in body
    assert "COMMENTS_ENABLED_FOR_EXTERNAL_CONTRIBUTORS_ONLY" in body
    of_check = [
        found
        for found in re.findall(r'^resource "\w+" "\w+" \{\n.*?^\}', BOOTSTRAP, re.MULTILINE | re.DOTALL)
        if 'build["check"].member' in found
    ]
    assert len(of_check) == 1
    assert re.findall(r"roles/[\w.]+", of_check[0]) == ["roles/logging.logWriter"]
    step = steps()["test"]
    for same in (
        "google-cloud-cli:528.0.0-emulators",
        "make python3-venv nodejs chromium chromium-driver",
        "make test",
    ):
        assert same in body, "a pull request and a commit are tested alike"
        assert same in step


def test_only_an_approved_build_runs_as_the_account_that_deploys() -> None:
    triggers = re.findall(r'^resource "google_cloudbuild_trigger" "(\w+)" \{\n(.*?)^\}', BOOTSTRAP, re.M | re.S)
    deploying = {name for name, body in triggers if 'build["apply"].id' in body}
    assert deploying == {"apply"}
    body = resource("google_cloudbuild_trigger", "apply")
    assert "approval_required = true" in body
    assert "filename" not in body, "a commit would decide what runs"
    assert "git_file_source" not in body


def apply_script() -> str:
    body = resource("google_cloudbuild_trigger", "apply")
    text = re.search(r'id += "fetch-plan".*?<<-EOT\n(.*?)^ +EOT', body, re.MULTILINE | re.DOTALL)
    assert text is not None
    return text[1].replace("${local.plans}", "gs://state/plans/").replace("$$", "$")


@pytest.mark.parametrize(
    ("plan", "taken"),
    [
        ("gs://state/plans/abc/77.tgz", True),
        ("gs://another/plans/abc/77.tgz", False),
        ("", False),
        ("gs://state/plans/$(touch hacked)", True),  # a name like another: nothing of it is run
    ],
)
def test_a_message_names_a_plan_and_runs_nothing(tmp_path: Path, plan: str, taken: bool) -> None:
    script = apply_script().replace("/workspace", str(tmp_path))
    environment = programs(tmp_path, gcloud="", tar="") | {"PLAN": plan}
    ended = subprocess.run(["bash", "-ceu", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode == 0) is taken
    assert not (tmp_path / "hacked").exists()
    if taken:
        assert f"gcloud storage cp {plan} " in (tmp_path / "calls").read_text()
    else:
        assert "is no plan of this pipeline" in ended.stderr


# --- what is written about it


def test_the_deployed_configuration_may_commit_its_lock() -> None:
    """The lock of providers holds their hashes: without it each plan takes the newest, unseen."""
    rules = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    allowed = "!terraform/examples/production/.terraform.lock.hcl"
    assert rules.index(allowed) > rules.index(".terraform.lock.hcl"), "the last rule that matches is git's"
    assert "-lockfile=readonly" in steps()["plan"]
    assert "git add .terraform.lock.hcl" in OPERATIONS


def test_builds_are_approved_and_repeated_as_documented() -> None:
    assert "gcloud builds approve BUILD --location=$REGION" in OPERATIONS
    assert "gcloud builds triggers run ruum-replan --region=$REGION --branch=main" in OPERATIONS
    assert '"${var.name}-replan"' in resource("google_cloudbuild_trigger", "replan")
