"""What the daemon answers, as types: each is the schema of the same name in ``control/openapi.yaml``.

Times are seconds since the Unix epoch, days are written 2026-11-24.
"""

# Without `from __future__ import annotations`: it would hide NotRequired from __required_keys__.
from typing import Any, Literal, NotRequired, TypedDict

Purpose = Literal[
    "enrol", "adapt_corrections", "adapt_confirmations", "usage", "voice_match", "household_phrases", "contribute"
]


class Listening(TypedDict):
    """``state``: idle, listening, always or paused; ``paused_until`` None: until resumed."""

    state: str
    paused_until: float | None


class ListeningAnswer(TypedDict):
    """After pausing or resuming."""

    listening: Listening


class Microphone(TypedDict):
    """How capture is doing; see ``values.MicrophoneHealth``."""

    state: str
    reason: str
    fix: str
    device: str
    rate: int
    channels: int
    overruns: int
    reopened: int
    dropped_blocks: int
    level_dbfs: float


class Bundle(TypedDict):
    """The model that runs; ``digest`` is the SHA-256 of its manifest."""

    name: str
    version: int
    signed: bool
    digest: str
    encoder: str
    wake_words: list[str]
    phrases: list[str]


class Keys(TypedDict):
    """``state`` released, or why there are no keys; ``text`` all of it in one line."""

    keystore: str
    state: str
    detail: str
    fix: str
    protected: bool
    pcr: int | None
    text: str


class VoiceState(TypedDict):
    """How far the device can tell a voice: ``examples`` that count of those ``needed``; waiting, learning or ready."""

    examples: int
    needed: int
    state: str


class Voice(VoiceState):
    """The same for its owner, with phrases ``such_as`` can be said for it."""

    such_as: list[str]


class Personalization(TypedDict):
    """``state`` off (with ``detail``), on or paused (with all the rest): ids and counts, no names."""

    state: str
    detail: NotRequired[str]
    paused_until: NotRequired[float | None]
    profile: NotRequired[str]
    adapters: NotRequired[dict[str, int]]
    taught: NotRequired[int]
    earlier_encoder: NotRequired[dict[str, dict[str, int]]]
    voices: NotRequired[dict[str, VoiceState]]


class PersonalizationAnswer(TypedDict):
    """After pausing or resuming learning."""

    learning: Personalization


class Learning(TypedDict):
    """Idle windows: what is due, what it waits for, and what happened."""

    state: str
    asked: bool
    running: str | None
    due: dict[str, int]
    waiting_for: list[str]
    obstacles: list[str]
    done: dict[str, int]
    preempted: int
    failed: int
    last: float | None
    stopped_by: str
    sandbox: dict[str, bool]


class Playback(TypedDict):
    """Whether the box plays something itself, and until when it says so."""

    active: bool
    until: float | None


class PlaybackAnswer(TypedDict):
    """After saying so."""

    playback: Playback


class Handoff(TypedDict):
    """The Unix user who gets the sound of a turn, "" for nobody, and whether its program is there."""

    user: str
    connected: bool


class Configuration(TypedDict):
    """``state``: in-force, refused (a reload) or fallback (a start); ``text`` says what is wrong."""

    state: str
    fallen_back: list[str]
    text: str


class Problem(TypedDict):
    """A mistake in the configuration."""

    file: str
    line: int
    field: str
    message: str


class Reload(TypedDict):
    """What came of a reload; ``at_next_start`` are the keys that wait for a restart."""

    taken: bool
    at_next_start: list[str]
    problems: list[Problem]


class Status(TypedDict):
    """The daemon at a glance."""

    version: str
    uptime_s: float
    configuration: Configuration
    listening: Listening
    playback: Playback
    microphone: Microphone
    bundle: Bundle
    keystore: str
    keys: Keys
    personalization: Personalization
    learning: Learning
    interpreter: str
    events: int
    handoff: Handoff
    first_block_ms: float | None
    rss_mib: float


class Device(TypedDict):
    """A capture device, by the name for ``audio.device``."""

    name: str
    description: str


class Devices(TypedDict):
    """All of them."""

    devices: list[Device]


class Place(TypedDict):
    """Where a key of the configuration was set."""

    file: str
    line: int


class ConfigOrigin(TypedDict):
    """The configuration, and where each key that is set was set, by its dotted name."""

    config: dict[str, Any]
    origin: dict[str, Place]


class Check(TypedDict):
    """One finding of doctor; ``level`` ok, warn or fail."""

    check: str
    ok: bool
    level: str
    detail: str
    fix: str


class Doctor(TypedDict):
    """All findings."""

    checks: list[Check]


class Grant(TypedDict):
    """A consent that holds; ``how`` spoken or paired."""

    since: int
    how: str
    receipt: str


class Person(TypedDict):
    """Somebody the device knows, and what they agreed to; ``voice`` where that is ``voice_match``."""

    profile: str
    name: str
    purposes: dict[str, Grant]
    voice: NotRequired[Voice]


class People(TypedDict):
    """Everybody; ``active`` is the profile of who speaks, or guest. ``household``: phrases that everybody may say."""

    people: list[Person]
    active: str
    household: list[str]


class Shared(TypedDict):
    """The phrases of a person that everybody may say."""

    profile: str
    shared: list[str]


class Question(TypedDict):
    """A consent that is asked for: to be answered in ``expires_s`` seconds."""

    token: str
    profile: str
    notice: str
    purposes: list[str]
    how: str
    expires_s: int


class Agreement(TypedDict):
    """What was agreed to."""

    granted: list[str]
    receipts: list[str]


class QuestionState(TypedDict):
    """open or closed."""

    state: str


class Gate(TypedDict):
    """What the seven checks said of a version; ``check`` is the first that failed, 0 for none."""

    passed: bool
    check: int
    reason: str
    numbers: dict[str, float]


class Round(TypedDict):
    """What a round of learning led to: the version in use (0: the base model) and its state."""

    adapter: int
    state: str
    gate: NotRequired[Gate]


class Withdrawn(Round):
    """``deleted`` records went."""

    deleted: int


class Forgotten(Round):
    """``forgotten`` examples went."""

    forgotten: int


class Imported(Round):
    """Examples that came back, and those that no consent covers."""

    imported: int
    left_out_without_consent: int


class Taught(Round):
    """What an enrolment led to: the numbers of its examples."""

    profile: str
    examples: list[int]


class Erased(TypedDict):
    """``erased`` records went, and every key over them."""

    erased: int


class Active(TypedDict):
    """The profile of who speaks from now on."""

    active: str


class Advice(TypedDict):
    """What makes a phrase hard to understand, and what to ``do``. ``kind``: short, begins_like or near; ``phrase`` is
    "" where there is none, or the asker may not see it, and ``base`` says whether it is one of the bundle's.
    """

    kind: str
    phrase: str
    base: bool
    text: str
    do: str


class Teaching(TypedDict):
    """Where an enrolment stands. ``state``: prompt, speaking, listening, taken, refused, training, done, failed or
    cancelled.
    """

    id: str
    state: str
    taken: int
    wanted: int
    attempts: int
    reason: str
    takes: list[int]
    keepable: bool
    advice: list[Advice]


class TakeKept(Teaching):
    """``costs`` says what it costs that a refused take counts."""

    costs: str


class TeachingState(Teaching):
    """The same with the level at the microphone, and the result once it is done ({} before)."""

    level_dbfs: float
    result: dict[str, Any]


class Learnt(TypedDict):
    """An example that came of a confirmation."""

    example: int
    counts: bool
    why: str
    adapter: int
    state: str
    learnt: str


class Corrected(Learnt):
    """Of a correction: ``rolled_back`` when it took a version on trial back."""

    rolled_back: bool


class ReviewPurpose(TypedDict):
    """A consent, with how long things are kept under it."""

    since: str
    how: str
    retention_days: int
    receipt: str


class Example(TypedDict):
    """One example that is kept."""

    id: int
    phrase: str
    source: str
    heard: str
    day: str
    expires: str
    counts: bool
    why: str
    encoder: str
    mapped: bool


class Usage(TypedDict):
    """How often each phrase was said on a day."""

    day: str
    said: dict[str, int]
    expires: str


class Version(TypedDict):
    """One version of what was learnt of somebody."""

    adapter: int
    state: str
    day: str
    examples: int
    uses: int
    corrections: int
    held_out: int
    known: int
    wrong: int
    wrong_before: int
    bundle: str
    set_aside: bool
    mapped: int


class Review(TypedDict):
    """Everything that is kept of somebody; ``voice`` where they agreed to ``voice_match``."""

    profile: str
    name: str
    purposes: dict[str, ReviewPurpose]
    examples: list[Example]
    usage: list[Usage]
    adapters: list[Version]
    upkeep: dict[str, str]
    shared: list[str]
    voice: NotRequired[Voice]


class History(TypedDict):
    """The versions, oldest first."""

    profile: str
    name: str
    versions: list[Version]


class Report(TypedDict):
    """Somebody's own figures; all but the first five only where something learnt is in use."""

    profile: str
    name: str
    adapter: int
    figures: dict[str, Any]
    limits: list[str]
    state: NotRequired[str]
    measured: NotRequired[str]
    health: NotRequired[dict[str, float]]
    selftest: NotRequired[dict[str, Any]]


class Explanation(TypedDict):
    """In plain words, a sentence or two each."""

    profile: str
    adapter: int
    text: list[str]


class Proof(TypedDict):
    """A version proved from what is kept; ``checks`` by name."""

    adapter: int
    ok: bool
    checks: dict[str, bool]
    examples: int
    receipts: list[str]
    ledger: str
    digest: str


class InUse(TypedDict):
    """ "version 3" or "the base model"."""

    in_use: str


class Browser(TypedDict):
    """A browser that may show the page, for one person."""

    id: str
    person: str
    profile: str
    created: int
    expires: int


class Browsers(TypedDict):
    """All of whom one may ask about."""

    browsers: list[Browser]


class PairingCode(TypedDict):
    """To be typed on the page, once; ``fingerprint`` is that of its certificate."""

    code: str
    person: str
    expires_s: int
    access: str
    fingerprint: str


class ForgottenBrowsers(TypedDict):
    """How many are let in no more."""

    forgotten: int


class AuditEntry(TypedDict):
    """One entry of the log of every change: ids and counts, no names."""

    seq: int
    time: int
    kind: str
    body: dict[str, int | str]
    hash: str


class Audit(TypedDict):
    """The newest entries, oldest first."""

    entries: list[AuditEntry]


class AuditHead(TypedDict):
    """Where the log ends, once all of it was checked."""

    count: int
    head: str


class Quote(TypedDict):
    """A TPM's signature over a PCR and a nonce; all in hex."""

    device: str
    attest: str
    signature: str
    pcr: int
    value: str


class AuditExport(TypedDict):
    """The log for somebody else, and a TPM's quote over it where there is one."""

    export: dict[str, Any]
    quote: Quote | None


class Attestation(TypedDict):
    """What this boot measured."""

    schema: str
    nonce: str
    bundle: dict[str, Any]
    quote: Quote | None


class Minimum(TypedDict):
    """No bundle of a lower version gets the keys."""

    minimum: int


class Recent(TypedDict):
    """Events, oldest first."""

    events: list[dict[str, Any]]
