import contextlib
import dataclasses
import datetime
import hashlib
import http.server
import io
import itertools
import random
import re
import shlex
import ssl
import subprocess
import sys
import tarfile
import threading
import types
import zlib

import pytest
import trustme

from ixi_tfds import __main__ as command_line
from ixi_tfds import cohorts, download
from ixi_tfds.cohorts.cohort import PublishedFile
from ixi_tfds.cohorts.ixi import IXI
from ixi_tfds.demo import cohort
from ixi_tfds.download import fetch as fetching
from ixi_tfds.download import unpack
from ixi_tfds.system.errors import DownloadError

BODY = random.Random(0).randbytes(300_000)
NAME = "data.bin"
T1 = "IXI002-Guys-0828-T1.nii.gz"


@dataclasses.dataclass
class Server:
    """What one local server does, path by path, and what it was asked."""

    url: str
    answers: dict
    seen: list

    def ranges(self):
        return [(path, headers.get("Range")) for path, headers in self.seen]


@contextlib.contextmanager
def serving(context=None):
    """Each path has a list of answers; the last one is given for ever. With `context` by TLS."""
    answers, seen = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, dict(self.headers)))
            queue = answers[self.path]
            (queue.pop(0) if len(queue) > 1 else queue[0])(self)

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    if context:
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    scheme = "https" if context else "http"
    try:
        yield Server(f"{scheme}://127.0.0.1:{httpd.server_port}", answers, seen)
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch):
    monkeypatch.setattr(fetching, "WAIT_SECONDS", 0.0)
    # Only tests of silence wait for it; on a busy machine an answer may take its time.
    monkeypatch.setattr(fetching, "TIMEOUT_SECONDS", 60.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # What other tests fetched would decide which certificates are known.
    monkeypatch.setattr(fetching.urllib.request, "_opener", None)


def serve(body=BODY, *, stop_after=None, etag=None):
    """A good server; with `stop_after` it hangs up after so many bytes of the answer."""

    def answer(handler):
        sent = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        changed = handler.headers.get("If-Range", etag) != etag
        start = int(sent[1]) if sent and not changed else 0
        if start and start >= len(body):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(body)}")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if etag:
            handler.send_header("ETag", etag)
        handler.send_header("Content-Length", str(len(body) - start))
        handler.end_headers()
        handler.wfile.write(body[start:][:stop_after])

    return answer


def fixed(status, body=b"", **headers):
    """The same answer whatever the range asked for; headers are written with underscores."""

    def answer(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def a_source(*urls, body=BODY, **changes):
    fields = {
        "name": NAME,
        "urls": urls,
        "md5": hashlib.md5(body).hexdigest(),
        "sha256": hashlib.sha256(body).hexdigest(),
        "sizes": (len(body), len(body)),
    }
    return PublishedFile(**(fields | changes))


def fetch(folder, *sources):
    return fetching.fetch_files(sources, str(folder))


def assert_fetched(folder, body=BODY):
    assert (folder / NAME).read_bytes() == body
    assert [path.name for path in folder.iterdir()] == [NAME], "no part is left behind"


def test_fetches_and_does_not_fetch_again(server, tmp_path):
    server.answers["/f"] = [serve()]
    folder = tmp_path / "new" / "folder"
    assert fetch(folder, a_source(server.url + "/f")) == str(folder / NAME)
    assert_fetched(folder)
    fetch(folder, a_source(server.url + "/f"))
    assert server.ranges() == [("/f", None)]


def test_goes_on_where_the_connection_broke(server, tmp_path):
    server.answers["/f"] = [
        serve(stop_after=100_000, etag='"a"'),
        serve(stop_after=50_000, etag='"a"'),
        serve(etag='"a"'),
    ]
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)
    assert server.ranges() == [("/f", None), ("/f", "bytes=100000-"), ("/f", "bytes=150000-")]
    assert [headers.get("If-Range") for _, headers in server.seen] == [None, '"a"', '"a"']


def test_a_weak_etag_is_not_used_for_ranges(server, tmp_path):
    server.answers["/f"] = [serve(stop_after=100_000, etag='W/"a"'), serve(etag='W/"a"')]
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)
    assert server.ranges()[1] == ("/f", "bytes=100000-")
    assert "If-Range" not in server.seen[1][1]


def test_starts_anew_when_the_file_changed_under_it(server, tmp_path):
    old = bytes(len(BODY))
    server.answers["/f"] = [serve(old, stop_after=100_000, etag='"old"'), serve(etag='"new"')]
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)
    assert len(server.seen) == 2


def test_goes_on_from_the_part_of_an_earlier_run(server, tmp_path):
    server.answers["/f"] = [serve()]
    (tmp_path / f"{NAME}.part").write_bytes(BODY[:123_456])
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)
    assert server.ranges() == [("/f", "bytes=123456-")]


def test_a_mirror_goes_on_from_what_the_first_address_gave(server, tmp_path):
    server.answers["/a"] = [serve(stop_after=100_000), fixed(404)]
    server.answers["/b"] = [serve()]
    fetch(tmp_path, a_source(server.url + "/a", server.url + "/b"))
    assert_fetched(tmp_path)
    assert server.ranges()[2:] == [("/b", "bytes=100000-")]


def test_a_part_of_other_bytes_costs_one_more_attempt_not_the_address(server, tmp_path):
    server.answers["/f"] = [serve()]
    (tmp_path / f"{NAME}.part").write_bytes(bytes(1000))
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)
    assert server.ranges() == [("/f", "bytes=1000-"), ("/f", None)]


def test_a_complete_part_is_verified_when_the_server_says_416(server, tmp_path):
    server.answers["/f"] = [serve()]
    (tmp_path / f"{NAME}.part").write_bytes(BODY)
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)
    assert server.ranges() == [("/f", f"bytes={len(BODY)}-")]


def test_a_part_longer_than_the_file_is_fetched_anew(server, tmp_path):
    server.answers["/f"] = [serve()]
    (tmp_path / f"{NAME}.part").write_bytes(BODY + b"more")
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)


def test_a_server_without_ranges_is_read_from_the_start(server, tmp_path):
    server.answers["/f"] = [fixed(200, BODY, Content_Length=str(len(BODY)))]
    (tmp_path / f"{NAME}.part").write_bytes(BODY[:1000])
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)


@pytest.mark.parametrize("content_range", [f"bytes 0-{len(BODY) - 1}/{len(BODY)}", "nonsense"])
def test_another_range_than_asked_for_is_not_appended(server, tmp_path, content_range):
    wrong = fixed(206, BODY, Content_Range=content_range, Content_Length=str(len(BODY)))
    server.answers["/f"] = [wrong, serve()]
    (tmp_path / f"{NAME}.part").write_bytes(BODY[:1000])
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)


def test_a_server_that_gives_a_capped_range_is_asked_for_the_rest(server, tmp_path):
    def capped(handler):
        start = int(handler.headers["Range"][6:-1])
        piece = BODY[start : start + 100_000]
        span = f"bytes {start}-{start + len(piece) - 1}/{len(BODY)}"
        fixed(206, piece, Content_Range=span, Content_Length=str(len(piece)))(handler)

    server.answers["/f"] = [capped]
    (tmp_path / f"{NAME}.part").write_bytes(BODY[:50_000])
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)


def test_an_answer_of_unknown_length_is_read_to_its_end(server, tmp_path):
    server.answers["/f"] = [fixed(200, BODY)]
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)


def test_an_endless_answer_is_cut_off(server, tmp_path):
    def endless(handler):
        fixed(200)(handler)
        try:
            while True:
                handler.wfile.write(bytes(65536))
        except OSError:
            pass

    server.answers["/f"] = [endless]
    with pytest.raises(DownloadError, match="bytes instead of 300000 bytes") as caught:
        fetch(tmp_path, a_source(server.url + "/f"))
    read = int(re.search("([0-9]+) bytes instead", str(caught.value))[1])
    assert 300_000 < read <= 300_000 + fetching._BLOCK and list(tmp_path.iterdir()) == []


def test_redirects_are_followed_with_the_range(server, tmp_path):
    server.answers["/old"] = [fixed(302, Location="/new")]
    server.answers["/new"] = [serve(stop_after=100_000), serve()]
    fetch(tmp_path, a_source(server.url + "/old"))
    assert_fetched(tmp_path)
    assert server.ranges()[2:] == [("/old", "bytes=100000-"), ("/new", "bytes=100000-")]


@pytest.mark.parametrize(
    "bad",
    [
        serve(bytes(len(BODY))),
        # A page of a captive portal, a length that is a lie (short of the file, then of itself).
        fixed(200, b"<html>", Content_Length="6"),
        fixed(200, BODY, Content_Length="299999"),
        fixed(200, BODY[:-1], Content_Length=str(len(BODY))),
        fixed(404),
        fixed(416),
        fixed(500),
        fixed(204),
        fixed(302, Location="/bad"),
        fixed(302, Location="file:///etc/hostname"),
        fixed(302, Location="http://[bad"),
        lambda handler: handler.wfile.write(b"this is not HTTP\r\n\r\n"),
        lambda handler: None,
        fixed(200, BODY[:-1], Content_Length="-5"),
        fixed(200, BODY[:-1], Content_Length="many"),
        fixed(200, BODY, Content_Length=str(1 << 50)),
        fixed(200, b"zz\r\n" + BODY, Transfer_Encoding="chunked"),
        fixed(200, b"-5\r\n" + BODY, Transfer_Encoding="chunked"),
        fixed(200, BODY, **{f"X{number}": "y" for number in range(200)}),
        fixed(200, BODY, X="y" * 100_000),
        fixed(200, zlib.compress(BODY), Content_Encoding="deflate"),
    ],
    ids=[
        "wrong checksum",
        "portal page",
        "announces too little",
        "ends early",
        "404",
        "416 to no range",
        "500",
        "no content",
        "redirect loop",
        "redirect to a local file",
        "broken redirect",
        "not http",
        "hangs up",
        "negative length",
        "length that is no number",
        "announces a petabyte",
        "chunks of no size",
        "chunks of negative size",
        "200 headers",
        "endless header",
        "packed without being asked",
    ],
)
def test_the_mirror_helps_when_the_first_address_does_not(server, tmp_path, bad):
    server.answers["/bad"] = [bad]
    server.answers["/good"] = [serve()]
    fetch(tmp_path, a_source(server.url + "/bad", server.url + "/good"))
    assert_fetched(tmp_path)


def test_hopeless_answers_are_not_asked_for_twice(server, tmp_path):
    server.answers |= {"/a": [fixed(404)], "/b": [serve(bytes(len(BODY)))], "/c": [fixed(500)]}
    with pytest.raises(DownloadError):
        fetch(tmp_path, a_source(*(server.url + path for path in ("/a", "/b", "/c"))))
    paths = [path for path, _ in server.seen]
    assert paths == ["/a", "/b", *["/c"] * fetching.ATTEMPTS]


def test_when_all_fail_the_error_says_why_for_each_and_what_to_do(server, tmp_path):
    server.answers |= {"/a": [fixed(404)], "/b": [serve(bytes(len(BODY)))], "/c": [fixed(500)]}
    urls = [server.url + path for path in ("/a", "/b", "/c")]
    with pytest.raises(DownloadError) as caught:
        fetch(tmp_path, a_source(*urls))
    said = str(caught.value)
    assert "\n" not in said
    assert all(url in said for url in urls)
    assert "HTTP 404" in said and "MD5" in said and "HTTP 500" in said
    assert f"by hand to {tmp_path / NAME}" in said
    assert list(tmp_path.iterdir()) == [], "neither a file nor wrong bytes stay"


def test_the_sha256_is_checked_too(server, tmp_path):
    server.answers["/f"] = [serve()]
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch(tmp_path, a_source(server.url + "/f", sha256="0" * 64))
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_which_only_the_md5_is_published_is_checked_by_it(server, tmp_path):
    """So it is with the archive of the volumes."""
    server.answers |= {"/bad": [serve(BODY[:-1] + b"?")], "/good": [serve()]}
    with pytest.raises(DownloadError, match="its MD5 is"):
        fetch(tmp_path, a_source(server.url + "/bad", sha256=""))
    assert list(tmp_path.iterdir()) == []
    fetch(tmp_path, a_source(server.url + "/bad", server.url + "/good", sha256=""))
    assert_fetched(tmp_path)


def test_the_published_files_have_the_checksums_and_addresses_that_are_known():
    workbook, archive = IXI.published
    assert (workbook.name, archive.name) == ("IXI.xls", "IXI-T1.tar")
    # MONAI's tutorials check the same archive by this MD5.
    assert archive.md5 == "34901a0593b41dd19c1a1f746eac2d58" and archive.sole
    assert archive.sizes[0] < 4.5e9 < archive.sizes[1]
    hosts = [re.match("(https?)://([^/]+)/", url).groups() for url in archive.urls]
    assert hosts[0] == ("http", "biomedic.doc.ic.ac.uk") and len({host for _, host in hosts}) == 2
    assert all(url.endswith("/" + each.name) for each in (workbook, archive) for url in each.urls)


def test_what_an_address_gave_before_it_failed_is_kept_for_the_next_run(server, tmp_path):
    server.answers["/f"] = [serve(stop_after=100_000), fixed(503)]
    with pytest.raises(DownloadError):
        fetch(tmp_path, a_source(server.url + "/f"))
    assert (tmp_path / f"{NAME}.part").read_bytes() == BODY[:100_000]


def test_a_connection_that_breaks_often_but_gains_is_not_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_PROGRESS_BYTES", 10_000)
    server.answers["/f"] = [serve(stop_after=20_000)]
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)
    assert len(server.seen) == 15 > fetching.ATTEMPTS


def test_an_address_that_gains_no_more_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_PROGRESS_BYTES", 10_000)
    # Were it asked for ever, the 404 would end it.
    server.answers["/f"] = [serve(stop_after=20_000), *[fixed(500)] * 20, fixed(404)]
    with pytest.raises(DownloadError, match=r"HTTP 500 .*, 4 attempts"):
        fetch(tmp_path, a_source(server.url + "/f"))
    assert len(server.seen) == fetching.ATTEMPTS


def test_a_server_that_always_breaks_at_the_start_is_given_up(server, tmp_path):
    server.answers["/f"] = [fixed(200, BODY[:1000], Content_Length=str(len(BODY)))]
    with pytest.raises(DownloadError, match="ended after 1000 of 300000 bytes, 4 attempts"):
        fetch(tmp_path, a_source(server.url + "/f"))
    assert len(server.seen) == fetching.ATTEMPTS


def test_a_silent_server_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT_SECONDS", 0.1)
    opened, asked = fetching._open, []
    # Counted here: a busy machine may see to it later that the server notices.
    monkeypatch.setattr(fetching, "_open", lambda *args: asked.append(args) or opened(*args))
    silence = threading.Event()
    server.answers["/f"] = [lambda handler: silence.wait(60)]
    try:
        with pytest.raises(DownloadError, match="timed out, 4 attempts"):
            fetch(tmp_path, a_source(server.url + "/f"))
    finally:
        silence.set()
    assert len(asked) == fetching.ATTEMPTS == 4 and list(tmp_path.iterdir()) == []


def socket_of(response):
    return response.fp.raw._sock


def test_what_came_before_a_stall_is_not_asked_for_again(server, tmp_path, monkeypatch):
    silence, read, came = threading.Event(), fetching._read, []

    def stall(handler):
        serve(stop_after=100_000)(handler)
        handler.wfile.flush()
        silence.wait(60)

    def impatient_at_the_stall(response):
        if sum(came) == 100_000:  # All that comes before the stall, however long it took.
            socket_of(response).settimeout(0.05)
        block = read(response)
        came.append(len(block))
        return block

    monkeypatch.setattr(fetching, "_read", impatient_at_the_stall)
    server.answers["/f"] = [stall, serve()]
    try:
        fetch(tmp_path, a_source(server.url + "/f"))
    finally:
        silence.set()
    assert_fetched(tmp_path)
    assert server.ranges() == [("/f", None), ("/f", "bytes=100000-")]


def test_a_slow_server_is_waited_for(server, tmp_path, monkeypatch):
    """The limit is for the silence before each block: hours in all are none of its business."""
    hours, read, limits = itertools.count(0, 3600), fetching._read, []

    def now():
        return next(hours)

    def watched(response):
        limits.append(socket_of(response).gettimeout())
        now()
        return read(response)

    clock = types.SimpleNamespace(sleep=lambda _: None, time=now, monotonic=now, perf_counter=now)
    monkeypatch.setattr(fetching, "time", clock)
    monkeypatch.setattr(fetching, "_read", watched)
    monkeypatch.setattr(fetching, "_BLOCK", 30_000)
    server.answers["/f"] = [serve()]
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)
    assert len(server.seen) == 1
    assert len(limits) >= 10 and set(limits) == {fetching.TIMEOUT_SECONDS}


def test_pauses_between_attempts_grow(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(fetching, "WAIT_SECONDS", 2.0)
    monkeypatch.setattr(fetching, "time", types.SimpleNamespace(sleep=pauses.append))
    server.answers["/f"] = [fixed(500)]
    with pytest.raises(DownloadError):
        fetch(tmp_path, a_source(server.url + "/f"))
    assert pauses == [0, 2, 6, 14]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_that_asks_for_patience_is_asked_again(server, tmp_path, status):
    server.answers["/f"] = [fixed(status), serve()]
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(server, tmp_path):
    server.answers["/f"] = [serve()]
    part = tmp_path / f"{NAME}.part"
    part.symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"No space left on device.*run the same command again"):
        fetch(tmp_path, a_source(server.url + "/f"))
    assert not (tmp_path / NAME).exists()
    part.unlink()
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)


@pytest.mark.parametrize(
    "bad",
    [serve(stop_after=100_000), serve(bytes(len(BODY))), fixed(500), fixed(302, Location="/f")],
)
def test_after_any_failure_the_next_run_completes(server, tmp_path, bad):
    server.answers["/f"] = [bad, fixed(404)]
    with pytest.raises(DownloadError) as caught:
        fetch(tmp_path, a_source(server.url + "/f"))
    assert "\n" not in str(caught.value) and server.url in str(caught.value)
    assert not (tmp_path / NAME).exists()
    server.answers["/f"] = [serve()]
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)


def test_an_expired_certificate_is_named_and_not_bypassed(server, tmp_path, monkeypatch):
    """By real TLS: of two certificates of one authority, which is trusted, one has run out."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    ended = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    contexts = [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2)]
    began = ended - datetime.timedelta(days=30)
    authority.issue_cert("127.0.0.1", not_before=began, not_after=ended).configure_cert(contexts[0])
    authority.issue_cert("127.0.0.1").configure_cert(contexts[1])
    opened, calls = fetching._open, []
    monkeypatch.setattr(fetching, "_open", lambda *args: calls.append(args) or opened(*args))
    server.answers["/good"] = [serve()]
    with serving(contexts[0]) as expired, serving(contexts[1]) as valid:
        expired.answers["/f"] = valid.answers["/f"] = [serve()]
        with pytest.raises(DownloadError) as caught:
            fetch(tmp_path / "a", a_source(expired.url + "/f"))
        said = "its certificate is not valid: certificate has expired"
        assert said in str(caught.value) and "\n" not in str(caught.value)
        assert len(calls) == 1, "a certificate gets no better by asking again"
        assert list((tmp_path / "a").iterdir()) == []
        fetch(tmp_path / "b", a_source(expired.url + "/f", server.url + "/good"))
        assert_fetched(tmp_path / "b")
        fetch(tmp_path / "c", a_source(valid.url + "/f"))
        assert_fetched(tmp_path / "c")
        assert expired.seen == []


def test_a_wrong_file_in_the_way_is_neither_used_nor_overwritten(server, tmp_path):
    for wrong in (BODY[:-1], BODY[:-1] + b"?"):
        (tmp_path / NAME).write_bytes(wrong)
        with pytest.raises(DownloadError, match=f"rename it to {NAME}.part"):
            fetch(tmp_path, a_source(server.url + "/f"))
        assert (tmp_path / NAME).read_bytes() == wrong
    assert server.seen == []


def test_a_right_file_beside_what_is_left_of_another_is_not_fetched_again(server, tmp_path):
    (tmp_path / NAME).write_bytes(BODY)
    (tmp_path / f"{NAME}.part").write_bytes(BODY[:1000])
    fetch(tmp_path, a_source(server.url + "/f"))
    assert (tmp_path / NAME).read_bytes() == BODY and server.seen == []


def test_another_copy_of_the_workbook_is_kept_with_a_warning(server, tmp_path, caplog):
    (tmp_path / NAME).write_bytes(b"another copy")
    fetch(tmp_path, a_source(server.url + "/f", sole=False))
    assert "kept, though it is not the published file (12 bytes instead of" in caplog.text
    assert (tmp_path / NAME).read_bytes() == b"another copy"
    assert server.seen == []


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="cannot be written"):
        fetch(tmp_path / "file" / "folder", a_source())


@pytest.mark.real_data
def test_the_workbook_that_is_expected_is_the_published_one(real_data, tmp_path):
    (tmp_path / "IXI.xls").write_bytes((real_data / "ixi" / "IXI.xls").read_bytes())
    workbook = next(each for each in IXI.published if each.name == "IXI.xls")
    nowhere = dataclasses.replace(workbook, urls=(), sole=True)
    fetch(tmp_path, nowhere)


@pytest.mark.real_data
def test_every_published_volume_has_a_name_that_is_taken(real_data, tmp_path):
    names = (real_data / "ixi" / "IXI-T1.filenames.txt").read_text().split()
    path = make_tar(tmp_path / "t.tar", [(name, b"x") for name in names])
    assert len(extract(path, str(tmp_path / "out"))) == 581


def extract(path, folder):
    return unpack.extract_volumes(path, folder, IXI.volume_name)


def make_tar(path, members, **kwargs):
    """Members are (name, bytes) or TarInfo objects."""
    with tarfile.open(path, "w", **kwargs) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return str(path)


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_unpacks_t1_volumes_and_nothing_else(tmp_path, caplog):
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    other = "IXI012-HH-1211-T1.nii.gz"
    hostile = [
        ("../IXI013-HH-1212-T1.nii.gz", b"up"),
        ("a/../../IXI014-HH-1236-T1.nii.gz", b"up"),
        (f"{tmp_path}/IXI015-HH-1258-T1.nii.gz", b"absolute"),
        special("IXI016-Guys-0697-T1.nii.gz", tarfile.SYMTYPE, str(outside)),
        special("IXI017-Guys-0698-T1.nii.gz", tarfile.LNKTYPE, T1),
        special("IXI018-Guys-0699-T1.nii.gz", tarfile.CHRTYPE),
        special("IXI019-Guys-0702-T1.nii.gz", tarfile.BLKTYPE),
        special("IXI020-Guys-0700-T1.nii.gz", tarfile.FIFOTYPE),
        special("IXI021-Guys-0703-T1.nii.gz", tarfile.DIRTYPE),
        special("folder", tarfile.SYMTYPE, str(tmp_path)),
        ("IXI002-Guys-0828-T2.nii.gz", b"T2"),
        ("IXI002-Guys-0828-T1.nii.gz\n", b"newline"),
        ("IXI0\N{ARABIC-INDIC DIGIT ONE}2-Guys-0828-T1.nii.gz", b"digits"),
        ("IXI022-Mars-0701-T1.nii.gz", b"site"),
        ("IXI023-Guys-0699-T1_mask.nii.gz", b"derived"),
        ("IXI023-Guys-0699-T1.nii", b"not packed"),
        ("IXI.xls", b"workbook"),
        ("setup.sh", b"rm"),
    ]
    good = [(T1, b"first" * 1000), (f"folder/{other}", b"second")]
    path = make_tar(tmp_path / "t.tar", [*hostile, *good])
    out = tmp_path / "out"
    found = extract(path, str(out))
    assert found == [str(out / T1), str(out / other)]
    assert sorted(each.name for each in out.iterdir()) == [T1, other]
    assert (out / T1).read_bytes() == b"first" * 1000
    assert (out / other).read_bytes() == b"second"
    assert not (out / T1).is_symlink()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out", "outside", "t.tar"]
    assert outside.read_bytes() == b"untouched"
    assert f"left out {len(hostile)} members" in caplog.text


def test_unpacking_again_writes_only_what_is_missing_or_cut_off(tmp_path):
    other, third = "IXI012-HH-1211-T1.nii.gz", "IXI013-HH-1212-T1.nii.gz"
    path = make_tar(tmp_path / "t.tar", [(T1, b"12345"), (other, b"12345"), (third, b"12345")])
    (tmp_path / T1).write_bytes(b"same!")
    (tmp_path / other).write_bytes(b"123")
    assert len(extract(path, str(tmp_path))) == 3
    assert (tmp_path / T1).read_bytes() == b"same!"
    assert (tmp_path / other).read_bytes() == (tmp_path / third).read_bytes() == b"12345"


def test_a_volume_of_several_blocks_is_unpacked_whole(tmp_path):
    path = make_tar(tmp_path / "t.tar", [(T1, BODY * 3)])
    extract(path, str(tmp_path / "out"))
    assert (tmp_path / "out" / T1).read_bytes() == BODY * 3
    # What an earlier run left of it is longer than it is.
    (tmp_path / "out" / T1).write_bytes(BODY * 3 + b"more")
    extract(path, str(tmp_path / "out"))
    assert (tmp_path / "out" / T1).read_bytes() == BODY * 3


def test_a_link_in_the_folder_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / T1).symlink_to(tmp_path / "precious")
    extract(make_tar(tmp_path / "t.tar", [(T1, b"12345")]), str(tmp_path))
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert (tmp_path / T1).read_bytes() == b"12345" and not (tmp_path / T1).is_symlink()


def negative_size(tmp_path):
    """Header with size -512 in base 256: tarfile would read it over and over."""
    path = tmp_path / "t.tar"
    make_tar(path, [("a.txt", b"x" * 512)])
    data = bytearray(path.read_bytes())
    data[124:136] = b"\xff" * 10 + b"\xfe\x00"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return data


@pytest.mark.parametrize("fault", ["missing", "not tar", "gz", "cut", "twice", "none", "negative"])
def test_an_archive_that_is_not_right_is_one_clear_error(tmp_path, fault):
    path = tmp_path / "t.tar"
    if fault == "not tar":
        path.write_bytes(BODY)
    elif fault == "gz":
        with tarfile.open(path, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo(T1))
    elif fault == "cut":
        make_tar(path, [(T1, BODY)])
        path.write_bytes(path.read_bytes()[:100_000])
    elif fault == "twice":
        make_tar(path, [(f"a/{T1}", b"1"), (f"b/{T1}", b"2")])
    elif fault == "none":
        make_tar(path, [("IXI.xls", b"1")])
    elif fault == "negative":
        path.write_bytes(negative_size(tmp_path))
    with pytest.raises(DownloadError, match=re.escape(str(path))):
        extract(str(path), str(tmp_path / "out"))
    if fault != "twice":  # Of those, the first stands there whole.
        assert not (tmp_path / "out" / T1).exists()


def publish(monkeypatch, *sources):
    """Let IXI be published as other files."""
    monkeypatch.setitem(cohorts.COHORTS, IXI.name, dataclasses.replace(IXI, published=sources))


def test_the_command_fetches_unpacks_and_says_what_is_next(server, tmp_path, monkeypatch, capsys):
    made = tmp_path / "made.tar"
    make_tar(made, [(T1, b"volume")])
    body = made.read_bytes()
    server.answers |= {"/tar": [serve(body, stop_after=2000), serve(body)], "/xls": [serve()]}
    sources = (
        a_source(server.url + "/xls", name="IXI.xls"),
        a_source(server.url + "/tar", name="IXI-T1.tar", body=body),
    )
    publish(monkeypatch, *sources)
    folder = tmp_path / "my scans"
    assert command_line.run(["download", f"--output_dir={folder}"]) == 0
    assert (folder / T1).read_bytes() == b"volume"
    assert (folder / "IXI.xls").read_bytes() == BODY
    summary, following = capsys.readouterr().out.splitlines()
    assert summary == f"1 T1 volumes and the workbook of IXI are in {folder}"
    assert f"--source_dir={folder}" in shlex.split(following.removeprefix("next: "))


def test_the_command_fails_with_one_line_and_exit_code_2(server, tmp_path, monkeypatch, capsys):
    server.answers["/f"] = [fixed(404)]
    publish(monkeypatch, a_source(server.url + "/f"))
    assert command_line.run(["download", f"--output_dir={tmp_path}"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1 and server.url in errors[0] and "by hand" in errors[0]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "download or cohort (none was given)"),
        (["fetch"], "download or cohort (not 'fetch')"),
        (["download", "cohort"], "unexpected argument 'cohort'"),
        (["download"], "--output_dir is missing"),
        (["cohort"], "--output_dir is missing"),
        (["cohort", "--output_dir=x", "--subjects=0"], "subjects"),
        (["download", "--output_dir=x", "--seed=1"], "Unknown command line flag 'seed'"),
        (["download", "--output_dir=x", "--subjects=2"], "Unknown command line flag 'subjects'"),
        (["download", "--outputdir=x"], "outputdir"),
        (
            ["download", "--output_dir=x", "--cohort=oasis"],
            "--cohort=oasis: not a cohort",
        ),
    ],
)
def test_bad_command_lines_get_one_line_and_exit_code_2(argv, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "download", lambda *args, **kwargs: pytest.fail("went on"))
    assert command_line.run(argv) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


REST = {"progress": True, "brain_masks": None}


def test_cohort_passes_its_flags_on(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(
        cohort, "write_cohort", lambda *args, **kwargs: calls.append((args, kwargs))
    )
    command = ["cohort", f"--output_dir={tmp_path}"]
    assert command_line.run([*command, "--subjects=5", "--seed=7"]) == 0
    assert calls.pop() == ((str(tmp_path),), {"subjects": 5, "seed": 7} | REST)
    out = capsys.readouterr().out
    assert out.startswith(f"5 made-up heads and their workbook are in {tmp_path}\n")
    assert f"--source_dir={tmp_path}" in out
    # Another run in the same process knows nothing of the flags of the first.
    assert command_line.run(command) == 0
    assert calls.pop() == ((str(tmp_path),), {"subjects": 24, "seed": 0} | REST)


def test_an_interruption_is_one_line_and_exit_code_130(tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(cohort, "write_cohort", interrupted)
    assert command_line.run(["cohort", f"--output_dir={tmp_path}"]) == 130
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "interrupted; run the same command again to go on\n"


def test_a_bug_of_ours_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(cohort, "write_cohort", lambda *args, **kwargs: [][0])
    with pytest.raises(IndexError):
        command_line.run(["cohort", f"--output_dir={tmp_path}"])


@pytest.mark.parametrize("flag", ["-h", "--help", "-help", "--helpshort", "--helpfull"])
def test_help_tells_the_commands_and_all_flags_with_their_defaults(capsys, flag):
    assert command_line.run([flag]) == 0
    out = capsys.readouterr().out
    for name, summary in (
        ("download", "download the published T1 volumes"),
        ("cohort", "make up heads"),
    ):
        assert re.search(rf"^  {name} +{summary}", out, re.MULTILINE)
    assert command_line.run(["cohort", flag]) == 0
    out = capsys.readouterr().out
    assert out.startswith("python -m ixi_tfds cohort --output_dir=S")
    assert "  --output_dir: Folder for the volumes and the workbook.\n" in out
    assert "  --subjects: Number of heads to make. (default 24)\n" in out
    assert "  --seed: Another seed gives other heads. (default 0)\n" in out
    assert command_line.run(["download", flag]) == 0
    out = capsys.readouterr().out
    assert out.startswith("python -m ixi_tfds download --output_dir=S")
    assert "  --output_dir: Folder for the volumes and the workbook.\n" in out
    assert "  --cohort: Cohort of the volumes: ixi_t1, or MODULE:NAME of your" in out


def test_our_warnings_reach_the_terminal_and_those_of_libraries_do_not(tmp_path):
    """In a process of its own, for pytest takes warnings to itself."""
    make_tar(tmp_path / "t.tar", [(T1, b"volume"), ("setup.sh", b"")])
    code = (
        "import logging, sys\n"
        "from ixi_tfds import __main__ as command_line\n"
        "from ixi_tfds.download import fetch as fetching\n"
        "def fetch(*args, **kwargs):\n"
        "    logging.getLogger('a_library').warning('chatter')\n"
        "    return sys.argv[1]\n"
        "fetching.fetch_files = fetch\n"
        "sys.exit(command_line.run(['download', f'--output_dir={sys.argv[2]}']))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "t.tar"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "left out 1 members that are not T1 volumes" in done.stderr
    assert "chatter" not in done.stderr


def test_download_does_not_import_tensorflow():
    code = "import sys, ixi_tfds.__main__; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
