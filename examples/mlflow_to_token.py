"""From training to token, on one machine and with nothing played.

Starts MLflow, redis-server and anvil, deploys the token registry, starts `hokusai serve` and `hokusai worker`; trains a weak
model and a better one on scikit-learn's breast cancer data, logs both to MLflow, makes the weak one the champion, registers
the better one against it, and follows it to its token. The last line is the token's address, read back from MLflow's tags.

    pip install . mlflow scikit-learn
    python examples/mlflow_to_token.py

Needs redis-server and anvil in PATH (`scripts/setup` installs both; anvil is also looked for in tools/node_modules).
"""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import mlflow
from mlflow.models import infer_signature
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import hokusai

MODEL, TOKEN, METRIC = "tumour-classifier", "TUMOUR", "accuracy"
# anvil's first account, known to everybody; owner and controller are two others of its accounts.
DEPLOYER_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
OWNER, CONTROLLER = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC", "0x90F79bf6EB2c4f870365E785982E1f101E93b906"


def main():
    with ExitStack() as running:
        place = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="mlflow-to-token-")))
        start_services(running, place)
        champion, candidate = train()
        client = mlflow.MlflowClient()
        version = mlflow.register_model(champion.model_uri, MODEL).version
        client.set_registered_model_alias(MODEL, "champion", version)

        registry = hokusai.EnhancedModelRegistry()
        # Neither value is given: MLflow has both.
        registration = registry.register_tokenized_model_with_events(
            model_uri=candidate.model_uri,
            model_name=MODEL,
            token_id=TOKEN,
            metric_name=METRIC,
            baseline=f"models:/{MODEL}@champion",
        )
        print(f"registered   {registration.model_id}: {registration.reason}")
        registration.wait(timeout=120)
        print(f"deployed     in block {registration['deployment']['block_number']}, gas {registration['deployment']['gas_used']}")

        # The better model is the champion now; asking for a token for the weak one is refused, with everything in the error.
        client.set_registered_model_alias(MODEL, "champion", registration.model_version)
        try:
            registry.register_tokenized_model_with_events(
                model_uri=f"models:/{MODEL}/{version}", model_name=MODEL, token_id=TOKEN, metric_name=METRIC, baseline=f"models:/{MODEL}@champion"
            )
            raise SystemExit("the weak model was accepted")
        except hokusai.BelowBaseline as below:
            print(f"rejected     {below.registration.model_id}: {below}")

        tags = eventually(lambda: token_tags(client, registration.model_version), "MLflow shows the token")
        assert tags["hokusai.token_address"] == registration.token_address
        for name in sorted(tags):
            print(f"in MLflow    {name} = {tags[name]}")
        print(tags["hokusai.token_address"])


def train():
    """Trains and logs a model that knows one question, and one that weighs all features."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    features, labels = load_breast_cancer(return_X_y=True, as_frame=True)
    train_x, test_x, train_y, test_y = train_test_split(features, labels, test_size=0.3, random_state=7, stratify=labels)
    mlflow.set_experiment("tumours")
    logged = []
    for model in (DecisionTreeClassifier(max_depth=1), make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))):
        model.fit(train_x, train_y)
        with mlflow.start_run():
            accuracy = model.score(test_x, test_y)
            mlflow.log_metric(METRIC, accuracy)
            signature = infer_signature(test_x, model.predict(test_x))
            # Cloudpickle, since the models never leave this machine; requirements named, since finding them out takes long.
            options = {"serialization_format": "cloudpickle", "pip_requirements": ["scikit-learn"]}
            logged.append(mlflow.sklearn.log_model(model, name="model", signature=signature, **options))
        print(f"trained      {type(model).__name__}: {METRIC} {accuracy:.4f}")
    return logged


def token_tags(client, version):
    tags = {name: value for name, value in client.get_model_version(MODEL, version).tags.items() if name.startswith("hokusai.")}
    return tags if "hokusai.transaction" in tags else None


def start_services(running, place):
    """Everything that runs in production elsewhere. Its addresses go into this process's environment, as they would there."""
    anvil_port, redis_port, mlflow_port, api_port = (free_port() for _ in range(4))
    node, tracking, api = (f"http://127.0.0.1:{port}" for port in (anvil_port, mlflow_port, api_port))
    start(running, place, "anvil", program("anvil"), "--port", str(anvil_port), "--slots-in-an-epoch", "1", "--block-time", "1")
    start(running, place, "redis-server", program("redis-server"), "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "")
    store = ["--backend-store-uri", f"sqlite:///{place}/mlflow.db", "--artifacts-destination", str(place / "artifacts")]
    start(running, place, "mlflow", sys.executable, "-m", "mlflow", "server", "--port", str(mlflow_port), "--workers", "1", *store)
    answers(node, b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}')
    eventually(lambda: listens(redis_port), "redis-server answers")
    os.environ.update(
        DATABASE_URL=f"sqlite:{place}/hokusai.db",
        REDIS_URL=f"redis://127.0.0.1:{redis_port}/0",
        MLFLOW_TRACKING_URI=tracking,
        HOKUSAI_DATA_DIR=str(place),
        HOKUSAI_LISTEN=f"127.0.0.1:{api_port}",
        HOKUSAI_API_URL=api,
        WEB3_PROVIDER_URL=node,
        DEPLOYER_PRIVATE_KEY=DEPLOYER_KEY,
        HOKUSAI_CONFIRMATIONS="1",
    )
    command = [sys.executable, "-m", "hokusai"]
    deploy = [*command, "contracts", "deploy", "--owner", OWNER, "--controller", CONTROLLER, "--json"]
    contract = json.loads(subprocess.run(deploy, check=True, stdout=subprocess.PIPE).stdout)
    os.environ["HOKUSAI_REGISTRY_ADDRESS"] = contract["address"]
    answers(f"{tracking}/health")
    start(running, place, "serve", *command, "serve")
    start(running, place, "worker", *command, "worker")
    answers(f"{api}/live")
    print(f"running      MLflow {tracking}, anvil {node}, API {api}")


def start(running, place, name, *command):
    """A process whose output goes to a file, and which ends with this one."""
    log = open(place / f"{name}.log", "wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=place)
    running.callback(stop, process, log)


def stop(process, log):
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    log.close()


def program(name):
    found = shutil.which(name) or shutil.which(name, path=Path(__file__).parents[1] / "tools/node_modules/.bin")
    return found or sys.exit(f"{name} is not installed; scripts/setup installs it")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url, body=None):
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
    eventually(lambda: urllib.request.urlopen(request, timeout=5).status == 200, f"{url} answers")


def listens(port):
    with socket.create_connection(("127.0.0.1", port), 1):
        return True


def eventually(probe, what, within=120):
    deadline = time.monotonic() + within
    while True:
        try:
            answer = probe()
        except OSError:
            answer = None
        if answer:
            return answer
        if time.monotonic() > deadline:
            sys.exit(f"not within {within} s: {what}")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
