"""What the launchers give to schedulers of clusters, checked by these schedulers' own schemas and programs."""

import json
import shutil
import subprocess

import pytest
import yaml

TRAINING = "--config configs/pretrain.py --workdir 'gs://beit/a b'"


@pytest.fixture(scope="module")
def task(repository):
    return yaml.safe_load((repository / "launch" / "skypilot.yaml").read_text())


def test_skypilot_starts_the_processes_of_one_run(task, tmp_path, repository, environment):
    program = tmp_path / "beit_jax_venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(
        '#!/bin/sh\necho "$BEIT_JAX_COORDINATOR $BEIT_JAX_PROCESS_COUNT $BEIT_JAX_PROCESS_INDEX"; echo "$5"\n'
    )
    program.chmod(0o755)
    node = {"SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    environment |= {"HOME": str(tmp_path), "TRAIN": TRAINING, **node}
    done = subprocess.run(["bash", "-c", task["run"]], capture_output=True, text=True, cwd=repository, env=environment)
    assert (done.stdout, done.stderr) == ("10.0.0.7:29500 2 1\n--workdir\n", "")


def test_skypilot_knows_every_key(task):
    sky = pytest.importorskip("sky", reason="skypilot is not installed")
    with pytest.raises(ValueError, match="'TRAIN' is None"):
        sky.Task.from_yaml_config(dict(task))
    made = sky.Task.from_yaml_config(dict(task), env_overrides=[("TRAIN", TRAINING)])
    (resources,) = made.resources
    assert made.num_nodes == 2 and resources.accelerators == {"H100": 8} and resources.use_spot
    assert resources.job_recovery["recover_on_exit_codes"] == [1, 42]


@pytest.fixture
def manifest(tmp_path, launch, program):
    """The JobSet that the installed xpk makes of the command of launch/gke_xpk.sh."""
    xpk, file = shutil.which("xpk"), tmp_path / "manifest.yaml"
    if not xpk:
        pytest.skip("xpk is not installed")
    program("xpk", f'exec {xpk} "$@" --dry-run --output-manifest-file {file}')
    flags = ["--cluster=tpus", "--project=my-project", "--zone=us-east5-b", "--name=beit", "--type=v6e-16"]
    flags += ["--slices=2", "--image=me/beit:v1", "--restarts=7", "--grace=200"]
    done = launch("gke_xpk.sh", "create", *flags, "--", "--config", "configs/pretrain.py", "--workdir", "gs://beit/a b")
    assert done.returncode == 0, done.stdout + done.stderr
    return yaml.safe_load(file.read_text())


def test_xpk_makes_what_was_asked_for(manifest):
    (slices,) = manifest["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert (manifest["metadata"]["name"], manifest["spec"]["failurePolicy"]["maxRestarts"]) == ("beit", 7)
    assert (slices["replicas"], job["completions"], pod["terminationGracePeriodSeconds"]) == (2, 4, 200)
    assert f"(exec launch/restartable.sh python -m beit_jax.train {TRAINING})" in container["command"][-1]
    (rule,) = job["podFailurePolicy"]["rules"]
    tolerated = rule["onExitCodes"]["values"]
    assert rule["action"] == "FailJob" and {1, 42} <= set(tolerated) and not {0, 2} & set(tolerated)


def test_manifest_is_a_jobset(manifest):
    """The models are made from the schema of JobSet, and leave out what it does not know."""
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="kubeflow-trainer-api is not installed")
    known = models.JobsetV1alpha2JobSet.from_dict(manifest)
    assert unknown(manifest, json.loads(known.to_json())) == []
    manifest["spec"]["failurePolicy"]["maxRestart"] = 7
    assert unknown(manifest, models.JobsetV1alpha2JobSet.from_dict(manifest).to_dict()) == [
        ".spec.failurePolicy.maxRestart"
    ]


def test_manifest_holds_a_job_of_kubernetes(manifest):
    schemas = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    (slices,) = manifest["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "beit"}, **slices["template"]}
    schemas.validate(job, "1.32", strict=True)
    job["spec"]["template"]["spec"]["gracePeriod"] = 1
    with pytest.raises(schemas.ValidationError, match="gracePeriod"):
        schemas.validate(job, "1.32", strict=True)


def unknown(given, kept, path=""):
    """The paths of values that are not in both."""
    if isinstance(given, dict):
        pairs = [(f"{path}.{key}", value, (kept or {}).get(key)) for key, value in given.items()]
    elif isinstance(given, list):
        pairs = [(f"{path}[{i}]", value, one) for i, (value, one) in enumerate(zip(given, kept, strict=True))]
    else:
        return [] if given == kept else [path]
    return [found for at, value, one in pairs for found in unknown(value, one, at)]
