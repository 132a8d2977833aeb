"""Drives a headless Chromium over its debugging pipe, with nothing but the standard library.

Usage: browser.py BROWSER PORT WORK_DIR PID_FILE_OF_A_NODE   (BARK_SCREENSHOTS=DIR keeps pictures)
"""

import base64
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request

BROWSER, PORT, WORK, PID_FILE = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
ORIGIN = f"http://127.0.0.1:{PORT}"
HOSTILE = "<img src=x onerror=document.title='broken'>&\"'"


class Browser:
    """One page. Commands are answered in order of their ids; everything else is an event."""

    def __init__(self):
        to_browser, self.out = os.pipe()
        self.inp, from_browser = os.pipe()

        def hand_over():
            # The browser reads at 3 and writes at 4. First out of the way, so that neither is overwritten.
            reader, writer = os.dup(to_browser), os.dup(from_browser)
            high_reader, high_writer = os.dup2(reader, 30), os.dup2(writer, 31)
            os.dup2(high_reader, 3)
            os.dup2(high_writer, 4)

        self.process = subprocess.Popen(
            [BROWSER, "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-dev-shm-usage", "--disable-background-networking", f"--user-data-dir={WORK / 'profile'}",
             "--window-size=1280,900", "about:blank"],
            close_fds=False, preexec_fn=hand_over, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.buffer, self.count, self.session = b"", 0, None
        self.complaints, self.requested = [], []
        targets = self.command("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self.command("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network", "DOM"]:
            self.command(f"{domain}.enable")

    def command(self, method, **parameters):
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while True:
            answer = self.receive(deadline)
            if answer.get("id") == self.count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def receive(self, deadline):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.inp], [], [], max(0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            received = os.read(self.inp, 1 << 20)
            assert received, "the browser ended"
            self.buffer += received
        text, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(text)
        self.event(message.get("method"), message.get("params", {}))
        return message

    def event(self, method, parameters):
        if method == "Runtime.exceptionThrown":
            self.complaints.append(parameters["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])
        elif method == "Page.javascriptDialogOpening":
            # Answered without waiting: the command under way is what opened the dialog.
            message = {"id": -1, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
            os.write(self.out, json.dumps({**message, "sessionId": self.session}).encode() + b"\0")

    def run(self, expression):
        result = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True,
                              userGesture=True)
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    def until(self, expression, seconds=20):
        deadline = time.monotonic() + seconds
        while True:
            value = self.run(expression)
            if value:
                return value
            assert time.monotonic() < deadline, (expression, self.run("document.body.innerText"))
            time.sleep(0.05)

    def open(self, address):
        self.command("Page.navigate", url=ORIGIN + address)
        self.until("document.readyState === 'complete'")

    def choose_file(self, selector, path):
        root = self.command("DOM.getDocument")["root"]["nodeId"]
        node = self.command("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.command("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def picture(self, name):
        if folder := os.environ.get("BARK_SCREENSHOTS"):
            data = self.command("Page.captureScreenshot", format="png")["data"]
            pathlib.Path(folder, f"{name}.png").write_bytes(base64.b64decode(data))

    def close(self):
        self.process.kill()
        self.process.wait()


def http(method, target, body=None):
    request = urllib.request.Request(ORIGIN + target, data=body, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def quoted(text):
    return json.dumps(text)


def row(name):
    """The row of the table whose link shows this name."""
    return f"[...document.querySelectorAll('#entries tr')].find((row) => row.querySelector('a')?.textContent === {quoted(name)})"


def cluster(page):
    page.open("/")
    page.until("document.querySelector('#health').textContent === 'Healthy'")
    page.until("document.querySelectorAll('#nodes tr').length === 3")
    assert page.run("document.querySelectorAll('#partitions li').length") == 16
    leaders = page.run("[...document.querySelectorAll('#partitions strong')].map((leader) => leader.textContent)")
    assert all("node-" in leader for leader in leaders), leaders
    assert "3 of 3" in page.run("document.querySelector('#totals').innerText")
    assert "free" in page.run("document.querySelector('#nodes').innerText")
    page.picture("cluster")


def hostile_names(page):
    encoded = urllib.parse.quote(HOSTILE)
    http("PUT", "/v1/dirs/browser")
    http("PUT", f"/v1/files/browser/{encoded}", b"content")
    http("PUT", f"/v1/dirs/browser/{encoded}-directory")
    http("PUT", f"/v1/keys/{encoded}", b"<script>document.title='broken'</script>")
    page.open("/#/files/browser/")
    page.until(row(HOSTILE) + " && true")
    page.until(row(HOSTILE + "-directory/") + " && true")
    page.run(row(HOSTILE + "-directory/") + ".querySelector('a').click()")
    page.until("document.querySelector('#crumbs').textContent.includes('onerror')")
    page.open("/#/keys")
    page.until(f"[...document.querySelectorAll('#key-list button')].some((key) => key.textContent === {quoted(HOSTILE)})")
    page.run(f"[...document.querySelectorAll('#key-list button')].find((key) => key.textContent === {quoted(HOSTILE)}).click()")
    page.until("document.querySelector('#key-form').elements.value.value.startsWith('<script>')")
    assert page.run("document.querySelectorAll('img').length") == 0
    assert page.run("document.title") == "BarkFS"


def up_and_down(page):
    content = os.urandom(3_000_000)
    (WORK / "upload.bin").write_bytes(content)
    (WORK / "downloads").mkdir()
    page.open("/#/files/browser/")
    page.until(row(HOSTILE) + " && true")
    page.choose_file("#upload", WORK / "upload.bin")
    page.until(row("upload.bin") + " && true")
    assert http("GET", "/v1/files/browser/upload.bin") == content
    page.picture("files")
    page.command("Page.setDownloadBehavior", behavior="allow", downloadPath=str(WORK / "downloads"))
    page.run(row("upload.bin") + ".querySelector('a').click()")
    deadline = time.monotonic() + 20
    while not ((found := WORK / "downloads" / "upload.bin").exists() and found.stat().st_size == len(content)):
        page.run("1")
        assert time.monotonic() < deadline, list((WORK / "downloads").iterdir())
        time.sleep(0.05)
    assert found.read_bytes() == content
    page.run("document.querySelector('#new-directory').elements.name.value = 'made here'")
    page.run("document.querySelector('#new-directory').requestSubmit()")
    page.until(row("made here/") + " && true")
    page.run(row("upload.bin") + ".querySelector('button').click()")
    page.until("!" + row("upload.bin"))
    # What is refused is said: the name is taken.
    page.run("document.querySelector('#new-directory').elements.name.value = 'made here'")
    page.run("document.querySelector('#new-directory').requestSubmit()")
    page.until("document.querySelector('#message').textContent.includes('File exists')")


def keys(page):
    page.open("/#/keys")
    page.until("!document.querySelector('#keys').hidden")
    page.run("""{ const form = document.querySelector('#key-form'); form.elements.key.value = 'browser/key';
        form.elements.value.value = 'von Hand'; form.requestSubmit(); }""")
    # The list is the last thing that saving brings up to date; the form may still show the key of an earlier part.
    page.until("document.querySelector('#key-list').innerText.includes('browser/key')")
    assert page.run("document.querySelector('#key-state').textContent").startswith("Version")
    assert http("GET", "/v1/keys/browser/key") == b"von Hand"
    page.picture("keys")
    page.run("document.querySelector('#delete-key').click()")
    page.until("!document.querySelector('#key-list').innerText.includes('browser/key')")
    assert page.run("document.querySelector('#key-state').textContent") == ""
    assert json.loads(http("GET", "/v1/keys?prefix=browser/"))["keys"] == []


def nothing_foreign(page):
    foreign = [url for url in page.requested if not url.startswith((ORIGIN + "/", "data:", "about:"))]
    assert not foreign, foreign
    # A refusal the page shows is in the browser's log too.
    complaints = [text for text in page.complaints if "409" not in text]
    assert not complaints, complaints


def a_node_less(page):
    page.open("/")
    page.until("document.querySelector('#health').textContent === 'Healthy'")
    os.kill(int(pathlib.Path(PID_FILE).read_text()), signal.SIGKILL)
    page.until("document.querySelector('#health').textContent.includes('1 of 3 nodes down')", 30)
    page.until("document.querySelector('#nodes').innerText.includes('does not answer')")
    page.picture("a-node-less")


page = Browser()
try:
    for part in [cluster, hostile_names, up_and_down, keys, nothing_foreign, a_node_less]:
        part(page)
        print(f"ok: {part.__name__}", flush=True)
finally:
    page.close()
