"""Values and baselines from MLflow."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading

import pytest
from conftest import a_model

import hokusai
from hokusai import EnhancedModelRegistry

pytestmark = pytest.mark.mlflow


@pytest.fixture()
def behind_tls(mlflow_url, tmp_path):
    """The same server behind TLS, its certificate signed by nobody but itself: the address and the certificate's file."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mlflow in a test")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    certificate, key_file = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_file.write_bytes(key.private_bytes(*plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key_file)
    target = ("127.0.0.1", int(mlflow_url.rsplit(":", 1)[1]))

    class Forward(socketserver.BaseRequestHandler):
        def handle(self):
            with context.wrap_socket(self.request, server_side=True) as near, socket.create_connection(target) as far:
                back = threading.Thread(target=carry, args=(far, near), daemon=True)
                back.start()
                carry(near, far)

    def carry(source, sink):
        try:
            while chunk := source.recv(65536):
                sink.sendall(chunk)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, block_on_close = True, False

        def handle_error(self, request, client_address):
            """A client that does not trust us hangs up; that is what is tested."""

    with Server(("127.0.0.1", 0), Forward) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_address[1]}", str(certificate)
        server.shutdown()


def test_mlflow_behind_tls_is_trusted_only_as_told(mlflow_url, behind_tls, monkeypatch):
    import mlflow

    mlflow.set_tracking_uri(mlflow_url)
    with mlflow.start_run() as started:
        mlflow.log_metric("reply_rate", 0.8)
    address, certificate = behind_tls
    model = {key: value for key, value in a_model(model_uri=f"runs:/{started.info.run_id}/model").items() if key != "current_value"}

    def register(name):
        return EnhancedModelRegistry(tracking_uri=address).register_tokenized_model_with_events(**{**model, "model_name": name})

    with pytest.raises(hokusai.Unavailable, match="(?i)certificate|UnknownIssuer|error sending"):
        register("untrusted")
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", certificate)
    assert register("trusted").current_value == 0.8
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", "/nowhere.pem")
    with pytest.raises(hokusai.HokusaiError, match="MLFLOW_TRACKING_SERVER_CERT_PATH: /nowhere.pem"):
        register("unread")
    monkeypatch.delenv("MLFLOW_TRACKING_SERVER_CERT_PATH")
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    assert register("unchecked").current_value == 0.8


def test_values_come_from_runs_and_aliases(mlflow_url):
    import mlflow

    mlflow.set_tracking_uri(mlflow_url)
    client = mlflow.MlflowClient()

    def run(value):
        with mlflow.start_run() as started:
            mlflow.log_metric("reply_rate", value)
        return started.info.run_id

    registry = EnhancedModelRegistry(tracking_uri=mlflow_url)
    model = {key: value for key, value in a_model().items() if key not in ("baseline_value", "current_value")}
    weak = run(0.7)
    first = registry.register_tokenized_model_with_events(**{**model, "model_uri": f"runs:/{weak}/model"}, baseline_value=0.7)
    assert (first.current_value, first.version, first.mlflow_run_id) == (0.7, "1", weak)
    client.set_registered_model_alias("my-model", "champion", first.version)
    better = registry.register_tokenized_model_with_events(
        **{**model, "model_uri": f"runs:/{run(0.8)}/model"}, baseline="models:/my-model@champion"
    )
    assert (better.baseline_value, better.current_value, better.version) == (0.7, 0.8, "2")
    assert client.get_model_version("my-model", "2").run_id == better.mlflow_run_id
    with pytest.raises(hokusai.InvalidRequest, match="current_value: is 0.9, but the run .* logged 0.6"):
        registry.register_tokenized_model_with_events(
            **{**model, "model_uri": f"runs:/{run(0.6)}/model"}, baseline_value=0.5, current_value=0.9
        )
