"""What it costs: memory, processor, wake-ups and the disk, of the running service."""

import time

import pytest
from product import digit

RSS_MIB = 80.0
SILENCE_S = 8
TICKS = 100
"""Of /proc/PID/stat, a second: the same on every Linux that Debian supports."""


def spent(product):
    """CPU seconds of the process so far."""
    fields = product.target.check(f"cat /proc/{product.pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(product):
    """MiB: the process's own, and what of the libraries is in memory."""
    status = product.target.check(f"grep -E '^(VmRSS|VmHWM):' /proc/{product.pid}/status").split()
    return int(status[1]) / 1024, int(status[4]) / 1024


@pytest.mark.arm64
@pytest.mark.quick
def test_memory_of_the_service(product, measure):
    product.restart()
    product.running()
    product.understands(4, 2)
    now, peak = resident(product)
    try:
        measure("resident memory of the daemon, keystore: file", peak, "MiB", RSS_MIB, timing=False)
    finally:
        measure("resident now", now, "MiB", timing=False)
        if product.target.facts.enforces_cgroups:
            measure("memory.current of the unit", int(product.show("MemoryCurrent")) / 2**20, "MiB", timing=False)


@pytest.mark.anywhere
def test_silence_costs_next_to_nothing(product, measure):
    product.running()
    time.sleep(3)  # the gate closes
    before = spent(product)
    time.sleep(SILENCE_S)
    share = (spent(product) - before) / SILENCE_S * 100
    measure("processor in silence, of one core", share, "%", 1.0)


@pytest.mark.anywhere
def test_speech_costs_little(product, measure):
    product.running()
    words = [digit(number) for number in (1, 4, 7)]
    before, began = spent(product), time.monotonic()
    for word in words:
        product.target.room.say(word)
    took = time.monotonic() - began
    measure("processor while somebody speaks, of one core", (spent(product) - before) / took * 100, "%", 5.0)


@pytest.mark.anywhere
def test_from_the_end_of_a_word_to_its_event(product, measure):
    """By the journal's clock, which is the machine's; the simulated microphone tells when the word ended."""
    if not hasattr(product.target.room, "mic"):
        pytest.skip("only the simulated microphone tells to the millisecond when a word ended")
    product.running()
    late = []
    for number in (4, 7, 2):
        product.mark()
        offset = time.time() - time.monotonic()
        spoken = product.target.room.say(digit(number))
        lines = product.journal(arguments="-o short-unix").splitlines()
        heard = [float(line.split()[0]) for line in lines if "event: phrase" in line]
        assert heard, product.journal()
        late.append(heard[0] - (spoken.end + offset))
    # Recordings end in some silence, so that most words are clear before their end.
    measure("end of a recorded word to its event, the longest of 3", max(late), "s", 0.25)


@pytest.mark.anywhere
def test_little_is_written_to_the_disk(product, measure):
    """At rest, with a word now and then: what the process had written, scaled to a day."""
    product.running()

    def written():
        return int(product.target.check(f"grep ^write_bytes /proc/{product.pid}/io").split()[1])

    before, began = written(), time.monotonic()
    product.understands(3)
    time.sleep(5)
    share = (written() - before) / 2**20 / (time.monotonic() - began) * 86_400
    measure("written to the disk at rest, scaled to a day", share, "MiB", 4.0, timing=False)
