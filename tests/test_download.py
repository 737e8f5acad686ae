import dataclasses
import hashlib
import http.server
import io
import random
import re
import shlex
import ssl
import subprocess
import sys
import tarfile
import threading
import time
import zlib

import pytest

from ixi_tfds import __main__ as command_line
from ixi_tfds import cohort, download, unpack
from ixi_tfds.errors import DownloadError

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


@pytest.fixture
def server():
    """Each path has a list of answers; the last one is given for ever."""
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
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Server(f"http://127.0.0.1:{httpd.server_port}", answers, seen)
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch):
    monkeypatch.setattr(download, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 5.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


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
    return download.Source(**(fields | changes))


def fetch(folder, *sources):
    return download.download_ixi(str(folder), sources=sources, progress=False)


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
    with pytest.raises(DownloadError, match="bytes instead of 300000 bytes"):
        fetch(tmp_path, a_source(server.url + "/f"))


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
    assert paths == ["/a", "/b", *["/c"] * download.ATTEMPTS]


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


def test_what_an_address_gave_before_it_failed_is_kept_for_the_next_run(server, tmp_path):
    server.answers["/f"] = [serve(stop_after=100_000), fixed(503)]
    with pytest.raises(DownloadError):
        fetch(tmp_path, a_source(server.url + "/f"))
    assert (tmp_path / f"{NAME}.part").read_bytes() == BODY[:100_000]


def test_a_connection_that_breaks_often_but_gains_is_not_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_PROGRESS_BYTES", 10_000)
    server.answers["/f"] = [serve(stop_after=20_000)]
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)
    assert len(server.seen) == 15 > download.ATTEMPTS


def test_a_server_that_always_breaks_at_the_start_is_given_up(server, tmp_path):
    server.answers["/f"] = [fixed(200, BODY[:1000], Content_Length=str(len(BODY)))]
    with pytest.raises(DownloadError, match="ended after 1000 of 300000 bytes, 4 attempts"):
        fetch(tmp_path, a_source(server.url + "/f"))
    assert len(server.seen) == download.ATTEMPTS


def test_a_silent_server_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.1)
    silence = threading.Event()
    server.answers["/f"] = [lambda handler: silence.wait(10)]
    try:
        with pytest.raises(DownloadError, match="timed out"):
            fetch(tmp_path, a_source(server.url + "/f"))
    finally:
        silence.set()


def test_what_came_before_a_stall_is_not_asked_for_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 1.0)
    silence = threading.Event()

    def stall(handler):
        serve(stop_after=100_000)(handler)
        handler.wfile.flush()
        silence.wait(10)

    server.answers["/f"] = [stall, serve()]
    try:
        fetch(tmp_path, a_source(server.url + "/f"))
    finally:
        silence.set()
    assert_fetched(tmp_path)
    assert server.ranges() == [("/f", None), ("/f", "bytes=100000-")]


def test_a_slow_server_is_waited_for(server, tmp_path, monkeypatch):
    """Slower in all than a connection may stay silent, but never silent for so long."""
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 2.0)

    def trickle(handler):
        fixed(200, Content_Length=str(len(BODY)))(handler)
        for start in range(0, len(BODY), 30_000):
            time.sleep(0.25)
            handler.wfile.write(BODY[start : start + 30_000])

    server.answers["/f"] = [trickle]
    fetch(tmp_path, a_source(server.url + "/f"))
    assert_fetched(tmp_path)
    assert len(server.seen) == 1


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
    server.answers["/good"] = [serve()]
    urlopen, calls = download.urllib.request.urlopen, []

    def expired(request, **kwargs):
        if not request.full_url.startswith("https:"):
            return urlopen(request, **kwargs)
        calls.append(kwargs)
        error = ssl.SSLCertVerificationError(1, "CERTIFICATE_VERIFY_FAILED")
        error.verify_message = "certificate has expired"
        raise download.urllib.error.URLError(error)

    monkeypatch.setattr(download.urllib.request, "urlopen", expired)
    secure = server.url.replace("http:", "https:") + "/good"
    with pytest.raises(DownloadError, match="certificate has expired"):
        fetch(tmp_path, a_source(secure))
    assert len(calls) == 1 and "context" not in calls[0]
    fetch(tmp_path, a_source(secure, server.url + "/good"))
    assert_fetched(tmp_path)


def test_a_wrong_file_in_the_way_is_neither_used_nor_overwritten(server, tmp_path):
    (tmp_path / NAME).write_bytes(BODY[:-1])
    with pytest.raises(DownloadError, match=f"rename it to {NAME}.part"):
        fetch(tmp_path, a_source(server.url + "/f"))
    assert (tmp_path / NAME).read_bytes() == BODY[:-1]
    assert server.seen == []


def test_another_copy_of_the_workbook_is_kept(server, tmp_path):
    (tmp_path / NAME).write_bytes(b"another copy")
    fetch(tmp_path, a_source(server.url + "/f", sole=False))
    assert (tmp_path / NAME).read_bytes() == b"another copy"
    assert server.seen == []


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="cannot be written"):
        fetch(tmp_path / "file" / "folder", a_source())


@pytest.mark.real_data
def test_the_workbook_that_is_expected_is_the_published_one(real_data, tmp_path):
    (tmp_path / "IXI.xls").write_bytes((real_data / "ixi" / "IXI.xls").read_bytes())
    workbook = next(each for each in download.OFFICIAL_SOURCES if each.name == "IXI.xls")
    nowhere = dataclasses.replace(workbook, urls=(), sole=True)
    fetch(tmp_path, nowhere)


@pytest.mark.real_data
def test_every_published_volume_has_a_name_that_is_taken(real_data, tmp_path):
    names = (real_data / "ixi" / "IXI-T1.filenames.txt").read_text().split()
    path = make_tar(tmp_path / "t.tar", [(name, b"x") for name in names])
    assert len(unpack.extract_t1(path, str(tmp_path / "out"), progress=False)) == 581


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
        ("IXI.xls", b"workbook"),
        ("setup.sh", b"rm"),
    ]
    good = [(T1, b"first" * 1000), (f"folder/{other}", b"second")]
    path = make_tar(tmp_path / "t.tar", [*hostile, *good])
    out = tmp_path / "out"
    found = unpack.extract_t1(path, str(out), progress=False)
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
    assert len(unpack.extract_t1(path, str(tmp_path), progress=False)) == 3
    assert (tmp_path / T1).read_bytes() == b"same!"
    assert (tmp_path / other).read_bytes() == (tmp_path / third).read_bytes() == b"12345"


def test_a_link_in_the_folder_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / T1).symlink_to(tmp_path / "precious")
    unpack.extract_t1(make_tar(tmp_path / "t.tar", [(T1, b"12345")]), str(tmp_path), progress=False)
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert (tmp_path / T1).read_bytes() == b"12345"


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
        unpack.extract_t1(str(path), str(tmp_path / "out"), progress=False)
    if fault == "cut":
        assert not (tmp_path / "out" / T1).exists()


def test_the_command_fetches_unpacks_and_says_what_is_next(server, tmp_path, monkeypatch, capsys):
    made = tmp_path / "made.tar"
    make_tar(made, [(T1, b"volume")])
    body = made.read_bytes()
    server.answers |= {"/tar": [serve(body, stop_after=2000), serve(body)], "/xls": [serve()]}
    sources = (
        a_source(server.url + "/xls", name="IXI.xls"),
        a_source(server.url + "/tar", name="IXI-T1.tar", body=body),
    )
    monkeypatch.setattr(download, "OFFICIAL_SOURCES", sources)
    folder = tmp_path / "my scans"
    assert command_line.run(["download", f"--output_dir={folder}"]) == 0
    assert (folder / T1).read_bytes() == b"volume"
    assert (folder / "IXI.xls").read_bytes() == BODY
    summary, following = capsys.readouterr().out.splitlines()
    assert summary == f"1 T1 volumes and the workbook of IXI are in {folder}"
    assert f"--source_dir={folder}" in shlex.split(following.removeprefix("next: "))


def test_the_command_fails_with_one_line_and_exit_code_2(server, tmp_path, monkeypatch, capsys):
    server.answers["/f"] = [fixed(404)]
    monkeypatch.setattr(download, "OFFICIAL_SOURCES", (a_source(server.url + "/f"),))
    assert command_line.run(["download", f"--output_dir={tmp_path}"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1 and server.url in errors[0] and "by hand" in errors[0]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "download or cohort (none was given)"),
        (["fetch"], "download or cohort (not 'fetch')"),
        (["download", "cohort"], "download or cohort (not 'download cohort')"),
        (["download"], "--output_dir"),
        (["cohort", "--output_dir=x", "--subjects=0"], "subjects"),
        (["download", "--output_dir=x", "--seed=1"], "--seed is a flag of cohort"),
        (["download", "--outputdir=x"], "outputdir"),
    ],
)
def test_bad_command_lines_get_one_line_and_exit_code_2(argv, said, capsys):
    assert command_line.run(argv) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_cohort_passes_its_flags_on(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(
        cohort, "write_cohort", lambda *args, **kwargs: calls.append((args, kwargs))
    )
    assert command_line.run(["cohort", f"--output_dir={tmp_path}", "--subjects=5"]) == 0
    assert calls == [((str(tmp_path),), {"subjects": 5, "seed": 0, "progress": True})]
    assert f"--source_dir={tmp_path}" in capsys.readouterr().out


def test_download_does_not_import_tensorflow():
    code = "import sys, ixi_tfds.__main__; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
