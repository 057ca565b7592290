"""Real servers of gs:// and s3:// on the local machine, and a proxy that breaks their answers."""

import contextlib
import functools
import http.client
import http.server
import itertools
import threading
import time
import urllib.parse

import pytest

NUMBERS = itertools.count()
ENVIRONMENT = {
    **{"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"},
    **{"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "NO_PROXY": "127.0.0.1"},
    **{"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "GCE_METADATA_HOST": "127.0.0.1:9", "NO_GCE_CHECK": "true"},
}
"""Credentials that the servers accept, and no others."""

ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}
"""Scheme -> variable of the server's address."""


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Does nothing: clients that end early are part of the tests."""


@contextlib.contextmanager
def serving(server):
    """Yields the URL of a server, which answers until the block ends."""
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield "http://{}:{}".format(*server.server_address)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def s3_server():
    """Returns a context with the URL of an S3 server (moto)."""
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    return serving(make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True))


def gs_server():
    """Returns a context with the URL of a Google Cloud Storage server (gcp-storage-emulator)."""
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage

    storage, lock = Storage(use_memory_fs=True), threading.Lock()

    class Handler(RequestHandler):
        def handle_one_request(self):  # the storage is for one thread
            with lock:
                super().handle_one_request()

    return serving(_Server(("127.0.0.1", 0), functools.partial(Handler, storage)))


class Proxy(_Server):
    """Proxy in front of a server, with broken answers.

    Attributes:
        requests: (method, path) of each request.
        broken: what to do with the next requests, in their order: an HTTP status to answer, or "cut" to end the answer
            in the middle of its content, "hold" to answer never; None to pass it on.
        held: set once a request is held.
    """

    def __init__(self, url):
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.target = urllib.parse.urlsplit(url).netloc
        self.requests, self.broken, self.held = [], [], threading.Event()


class _ProxyHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass(self):
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.path))
        action = self.server.broken.pop(0) if self.server.broken else None
        self.close_connection = True
        if action == "hold":
            self.server.held.set()
            return time.sleep(5)
        if isinstance(action, int):
            self.send_response(action)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = http.client.HTTPConnection(self.server.target)
        connection.request(self.command, self.path, content, dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if action == "cut" else body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = _pass

    def log_message(self, *arguments):
        """Prints nothing."""


@pytest.fixture(scope="session")
def store_servers():
    """Scheme -> URL of its server."""
    for package in ("moto", "gcp_storage_emulator", "s3fs", "gcsfs"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'compressed_lm[dev,gcs,s3]'")
    with s3_server() as s3, gs_server() as gs:
        yield {"s3": s3, "gs": gs}


@pytest.fixture
def stores(store_servers, monkeypatch):
    """Points gs:// and s3:// to the local servers; returns a function (scheme) -> URL of a new bucket."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for scheme, url in store_servers.items():
        monkeypatch.setenv(ENDPOINTS[scheme], url)
    return new_bucket


@pytest.fixture(params=["gs", "s3"])
def bucket_url(request, stores):
    """URL of a new bucket, gs://... and s3://..."""
    return stores(request.param)


@pytest.fixture
def proxy(bucket_url, store_servers, monkeypatch):
    """The `Proxy` in front of the server of `bucket_url`."""
    scheme = bucket_url.partition(":")[0]
    server = Proxy(store_servers[scheme])
    with serving(server) as url:
        monkeypatch.setenv(ENDPOINTS[scheme], url)
        yield server


def new_bucket(scheme):
    """Makes a bucket on the current server of a scheme and returns its URL."""
    from compressed_lm.io.object_stores import client

    name = f"bucket-{next(NUMBERS)}"
    if scheme == "s3":
        client("s3").call_s3("create_bucket", Bucket=name)
    else:
        client("gs").call("POST", "b", project="test", json={"name": name})
    return f"{scheme}://{name}"
