"""The three ports that the documentation offers, opened as it says, and tried from another place in the network.

Nothing here is a stand-in: the installed daemon makes the sockets in its unit, idiolect-tcp@ has the ports, and who
connects is outside of both.
"""

import dataclasses
import hashlib
import http.client
import ssl

import pytest
from printed import DOCS, port
from product import DIGITS, SOCKET, UNIT, digit
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import read_event, write_event
from wyoming.info import Describe
from wyoming.wake import Detect

pytestmark = [pytest.mark.quick, pytest.mark.anywhere]
PATIENCE_S = 20


@pytest.fixture
def neighbour(product):
    with product.target.neighbour() as found:
        yield found


@pytest.fixture
def opened(product):
    """Opens ports; they are closed afterwards."""
    ports = []

    def open_it(wish):
        ports.append(wish)
        wish.open(product)
        product.running()
        return wish

    yield open_it
    for wish in ports:
        wish.close(product)
    product.touched()


def get(sock, path, host):
    """One GET; its status, headers and text."""
    sock.settimeout(PATIENCE_S)
    made = http.client.HTTPConnection("device")
    made.sock = sock
    made.request("GET", path, headers={"Host": host})
    answer = made.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode()


class Talk:
    """Wyoming over one connection."""

    def __init__(self, sock):
        sock.settimeout(PATIENCE_S)
        self.sock, self._file = sock, sock.makefile("rwb")

    def say(self, *events):
        for event in events:
            write_event(event.event(), self._file)
        self._file.flush()

    def until(self, kind):
        """The next event of a kind; None where the other end hangs up before."""
        while (event := read_event(self._file)) is not None:
            if event.type == kind:
                return event
        return None


def described(sock):
    """What a Wyoming server says of itself, None where nobody answers."""
    talk = Talk(sock)
    try:
        talk.say(Describe())
        return talk.until("info")
    except ConnectionError:
        return None


def hears(sock, number):
    """Send a spoken digit; the `detection` of it."""
    talk = Talk(sock)
    data = digit(number).astype("<i2").tobytes()
    chunks = [AudioChunk(16_000, 2, 1, data[at : at + 2048]) for at in range(0, len(data), 2048)]
    talk.say(Detect(names=[DIGITS[number]]), AudioStart(16_000, 2, 1), *chunks, AudioStop())
    return talk.until("detection")


def test_wyoming_from_another_machine(product, neighbour, opened, measure, stopwatch):
    """Home Assistant's part: it asks what there is, sends sound, and is told what was said; after a restart, too."""
    product.configure(product.baseline().replace("always_on: []", "always_on: [seven]"))
    wish = opened(port("homeassistant.md", "wyoming"))
    assert "chown" not in product.journal()
    info = described(neighbour.connect(wish.number))
    assert info is not None, product.journal("idiolect-tcp@wyoming.service")
    assert "seven" in [each["name"] for each in info.data["wake"][0]["models"]]
    began = stopwatch()
    detection = hears(neighbour.connect(wish.number), 7)
    assert detection is not None
    assert detection.data["name"] == "seven"
    measure("Wyoming over TCP: connection to detection", stopwatch() - began, "s", timing=True)
    product.restart()
    product.running()
    assert described(neighbour.connect(wish.number)) is not None


def test_metrics_from_another_machine(product, neighbour, opened):
    wish = opened(port("monitoring/README.md", "metrics"))
    status, _, text = get(neighbour.connect(wish.number), "/metrics", f"192.168.1.20:{wish.number}")
    assert status == 200, text
    assert "idiolect_build_info{" in text
    status, _, _ = get(neighbour.connect(wish.number), "/v1/status", "192.168.1.20")
    assert status == 404, "and nothing else"


def test_the_page_in_the_network_under_tls(product, neighbour, opened):
    wish = opened(port("page.md", "page"))
    product.target.wait(lambda: "serving the page under TLS" in product.journal(), 30, "the vault is open")
    host = f"192.168.1.20:{wish.number}"
    sock, seen = under_tls(neighbour.connect(wish.number))
    status, headers, text = get(sock, "/", host)
    assert status == 200, text
    assert "<html" in text
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert get(under_tls(neighbour.connect(wish.number))[0], "/v1/status", host)[0] == 401, "who is not paired"
    product.restart()
    product.running()
    product.target.wait(lambda: product.journal().count("serving the page under TLS") >= 2, 30, "it is served again")
    sock, again = under_tls(neighbour.connect(wish.number))
    assert again == seen, "the same certificate"
    assert get(sock, "/", host)[0] == 200


def under_tls(sock):
    """The connection under TLS, and the fingerprint of what is shown there."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sock.settimeout(PATIENCE_S)
    wrapped = context.wrap_socket(sock)
    assert wrapped.version() == "TLSv1.3"
    return wrapped, hashlib.sha256(wrapped.getpeercert(binary_form=True)).hexdigest()


def test_the_page_for_a_browser_on_the_device(product, neighbour, opened):
    """The other of the page's two ways: page.access: loopback, on a port of the loopback."""
    printed = port("page.md", "page")
    settings = printed.settings.replace("access: lan", "access: loopback")
    drop_in = "[Socket]\nListenStream=127.0.0.1:8080\n"
    assert settings != printed.settings
    assert "`ListenStream=127.0.0.1:8080`" in (DOCS / "page.md").read_text()
    wish = opened(dataclasses.replace(printed, settings=settings, drop_in=drop_in))
    status, _, text = get(product.target.connect(wish.number), "/", f"localhost:{wish.number}")
    assert status == 200, text
    assert get(product.target.connect(wish.number), "/", "elsewhere.example")[0] == 421
    with pytest.raises(OSError, match="refused"):
        neighbour.connect(wish.number)


def test_they_are_open_again_after_a_reboot_even_where_the_address_comes_late(product, opened):
    """The cable is not plugged in when the machine starts."""
    wish = port("homeassistant.md", "wyoming")
    with product.target.neighbour() as neighbour:
        opened(wish)
        assert described(neighbour.connect(wish.number)) is not None
    product.target.reboot()
    product.running(60)
    assert product.show("ActiveState", wish.unit) == "active"
    assert product.target.check(f"systemctl is-active {UNIT} {SOCKET}").split() == ["active", "active"]
    with product.target.neighbour() as neighbour:
        assert described(neighbour.connect(wish.number)) is not None


def test_a_socket_of_another_name_has_a_port_of_that_name(product, neighbour, opened):
    """wyoming.socket, as people may have set it."""
    printed = port("homeassistant.md", "wyoming")
    wish = dataclasses.replace(
        printed,
        unit="idiolect-tcp@kitchen.socket",
        settings=f"{printed.settings}  socket: /run/idiolect/kitchen.sock\n",
        commands=tuple(each.replace("@wyoming", "@kitchen") for each in printed.commands),
    )
    opened(wish)
    assert described(neighbour.connect(wish.number)) is not None
    assert product.target.check("stat -c '%a %U:%G' /run/idiolect/kitchen.sock") == "660 idiolect:idiolect-tcp"


def test_no_port_leads_to_the_control_socket(product, neighbour):
    """Somebody who tries: the proxy's group may not connect to it."""
    product.drop_in("[Socket]\nListenStream=192.168.1.20:10499\n", unit="idiolect-tcp@control.socket")
    product.target.check("systemctl start idiolect-tcp@control.socket")
    try:
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            get(neighbour.connect(10499), "/v1/status", "localhost")
        told = product.journal("idiolect-tcp@control.service")
        assert "Permission denied" in told
    finally:
        product.target.run("systemctl stop idiolect-tcp@control.socket idiolect-tcp@control.service")


@pytest.mark.parametrize(
    ("drop_in", "reason"),
    [
        ("SystemCallFilter=~fchownat", "the unit's filter forbids fchownat"),
        ("SupplementaryGroups=\nSupplementaryGroups=audio tss", "the daemon is no member of it"),
    ],
)
def test_a_unit_that_was_changed_so_that_no_port_can_work_is_told_why(product, neighbour, opened, drop_in, reason):
    product.drop_in(f"[Service]\n{drop_in}\n")
    wish = opened(port("homeassistant.md", "wyoming"))
    assert described(neighbour.connect(wish.number)) is None
    assert f"group idiolect-tcp cannot connect to the wyoming socket: {reason}" in product.journal()


def test_the_file_for_avahi_is_where_the_documentation_says(product):
    text = (DOCS / "homeassistant.md").read_text()
    command = next(line.strip() for line in text.splitlines() if "/etc/avahi/services" in line and " cp " in line)
    product.target.check(f"mkdir -p /etc/avahi/services; {command.removeprefix('sudo ')}")
    said = product.target.check("cat /etc/avahi/services/idiolect-wyoming.service")
    assert f"<port>{port('homeassistant.md', 'wyoming').number}</port>" in said
    product.target.unlink("/etc/avahi")
