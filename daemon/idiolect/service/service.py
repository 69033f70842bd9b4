"""The daemon: owns every thread and queue, and the order in which they start and stop.

| thread | does | ends |
| --- | --- | --- |
| main | asyncio: control socket, signals, timed pauses | when asked to stop, or when another thread died |
| keys | boot measurement, TPM, vault: all that may block on them | when told to, after what it does |
| capture | microphone -> ``BlockQueue`` (2 s) | when told to; it closes the queue |
| inference | ``BlockQueue`` -> chain -> ``EventStream`` | when the queue is closed and empty |
| helper, two at most | what may block for a moment: sensors, prompts | by itself |

Threads stop in the order in which data flows: capture, inference, then control, so that the last event is still sent. A
thread that dies of a bug takes the process with it (exit code 70): systemd restarts a dead process, not a deaf one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from idiolect import __version__
from idiolect.config.files import installed_files
from idiolect.config.schema import Audio, Config, as_dict, load
from idiolect.control.page.browsers import Pairing
from idiolect.control.server import control_server
from idiolect.control.shared import Shared
from idiolect.control.turning_away import turn_away
from idiolect.errors import ConfigError, IdiolectError, reason
from idiolect.events import EventStream, StateChange
from idiolect.host import process, systemd
from idiolect.host.systemd import Notifier
from idiolect.learning.lived import Wish
from idiolect.learning.worker.process import Worker
from idiolect.listening import recognizer
from idiolect.listening.audio.capture import BlockQueue, Capture, Source
from idiolect.listening.audio.microphone import list_devices, open_source
from idiolect.listening.audio.outages import Outages
from idiolect.listening.inference import EventIds, Inference
from idiolect.listening.pipeline.earlier import EarlierModel
from idiolect.listening.pipeline.household import Household
from idiolect.listening.recognizer import also_always, listening_for, with_taught
from idiolect.listening.streams import Streams
from idiolect.people.adapters import Adapters
from idiolect.people.enrolment import Enrolment
from idiolect.people.models import model_of, wish_of
from idiolect.people.people import People
from idiolect.service import doctor
from idiolect.service.connections import Connections
from idiolect.service.idle.scheduler import IdleScheduler
from idiolect.service.metrics import Measuring, Moment
from idiolect.service.pause import Pausing
from idiolect.service.playback import Playback
from idiolect.service.settings import Settings, as_problems
from idiolect.service.starting import Start, begin
from idiolect.service.supervision import Condition, Supervision, where
from idiolect.trust.device.keys import DeviceKeys, View, sentence
from idiolect.trust.device.swap import read_swapping
from idiolect.trust.device.vault_thread import VaultThread
from idiolect.values import Event, MicrophoneHealth

log = logging.getLogger(__name__)

QUEUE_BLOCKS = 25
"""Two seconds of audio: longer than any hiccup that leaves a board usable."""
STOP_S = 0.4
"""Seconds that each thread gets to end."""
REFUSED = 78
"""Exit code of a start that comes to the same when it is tried again (EX_CONFIG); the unit does not try."""
HELPERS = 2
"""Threads for what may block for a moment, such as sensors and prompts: each costs memory for as long as it runs."""


class Service:
    """One running daemon. ``run`` returns the exit code; the rest is what the control API asks for."""

    def __init__(self, start: Start, files: Callable[[], Sequence[Path]], notifier: Notifier) -> None:
        """Make every part and connect them; start nothing. ``files`` lists what a reload reads."""
        config, ears = start.config, start.ears
        self._settings = Settings(start, files)
        self.hub = EventStream()
        self._names = EventIds()
        self._bundle, self._model = ears.bundle, ears.model
        self._runtime = ears.chain.runtime
        self.streams = Streams(ears.recognizer, ears.wish, gated=config.listening.gate)
        self._queue = BlockQueue(QUEUE_BLOCKS)
        self._supervision = watch = Supervision(notifier, self._queue, self._condition)
        self._capture = Capture(self._open_source, self._queue, alive=watch.searching, changed=self._stirred)
        self._pausing = Pausing(self._capture, Path(config.state_dir), self._paused)
        self._inference = Inference(ears.chain, self._queue, self.hub, self._names, self._heard)
        self._inference.processed = watch.processed
        self.box = Playback(self.hub, self._names, self._inference)
        self._server = control_server(self, config.control)
        self.proofs = VaultThread(DeviceKeys(config, self._model), self._keys_changed)
        self._worker, self._prober = Worker(), doctor.Prober()
        self._asked_devices, self._asked_doctor = Shared(self._look_for_devices), Shared(self._examine)
        model = model_of(ears.recognizer)
        self.personal = Adapters(
            self.proofs, self._inference, self.hub, model, self._bundle.encoder_id,
            people=recognizer.users(config), state_dir=Path(config.state_dir),
            names=self._names, listen=self._listen, wishes=self._wish, backend=self._worker, succession=ears.succession,
        )  # fmt: skip
        self.people = People(self.personal, self._inference)
        self.pairing = Pairing(self.personal, config.page.access if config.page.enabled else "")
        self.teaching = Enrolment(
            self.personal, self.people, self._inference, self.hub, model, names=self._names, ready=self._deaf,
            listened=self._listened,
        )  # fmt: skip
        self.windows = IdleScheduler(
            self.personal, self._worker, wishes=lambda: self._config.idle, state_dir=Path(config.state_dir),
            quiet=lambda: (self._inference.quiet_s, self._inference.state == "listening"), custody=self.proofs.custody,
        )  # fmt: skip
        self.personal.altered = self.windows.changed
        self.measuring = Measuring(
            self._inference, self._queue, personal=self.personal, windows=self.windows, custody=self.proofs.custody,
            now=self._moment,
        )  # fmt: skip
        self._connections = Connections(self, config, self._inference)
        self.measuring.clients |= {"events": lambda: self.hub.subscribers, **self._connections.clients}
        self._outages = Outages()
        self._opened: Audio | None = None
        self._first_block_ms: float | None = None
        self._exit_code = 0

    # -- life ---------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return 0 then, 70 when a thread died."""
        asyncio.run(self._main())
        return self._exit_code

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._helpers = ThreadPoolExecutor(HELPERS, "helper")
        self._loop.set_default_executor(self._helpers)
        self._stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self.reload)
        self._pausing.restore()
        threads = [
            self._thread("capture", self._capture.run),
            self._thread("inference", self._inference.run),
            self._thread("keys", self.proofs.run),
        ]
        keeping = asyncio.create_task(self.proofs.keep())
        keeping.add_done_callback(self._keeping_ended)
        tending = asyncio.create_task(self.windows.run())
        tending.add_done_callback(self._keeping_ended)
        self._inference.told = self._told
        try:
            await self._server.start()
            await self._connections.start()
            log.info("serving %s; bundle %s v%d", self._config.control.socket, self._bundle.name, self._bundle.version)
            if not self._model.signed:
                log.warning("the bundle is not signed: for development only")
            for thread in threads:
                thread.start()
            self._supervision.serving()
            self._settings.works(None)
            await self._stop.wait()
        finally:
            self._supervision.stopping()
            self._outages.close()
            self._capture.stop()
            keeping.cancel()
            tending.cancel()
            self._worker.kill()
            self._prober.stop()
            with contextlib.suppress(IdiolectError, TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await self.personal.flush()
            self.proofs.stop()
            for thread in threads:
                await _ended(thread)
            await self._connections.stop()
            await self._server.stop()
            self._helpers.shutdown(wait=False, cancel_futures=True)  # those who waited for one are gone
            log.info("stopped")

    def _thread(self, name: str, body: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                body()
            except BaseException as error:
                self._died(f"thread {name}", error)

        return threading.Thread(target=run, name=name, daemon=True)

    def _died(self, what: str, error: BaseException) -> None:
        # The type only: an exception's text may quote what it choked on.
        log.critical("%s died: %s in %s", what, type(error).__name__, where(error))
        self._exit_code = 70
        self._loop.call_soon_threadsafe(self._stop.set)

    def _keeping_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self._died("the keys' keeper", error)

    def _keys_changed(self, view: View) -> None:
        self.hub.publish(StateChange(self._names(), time.time(), {"keys": {"state": view.state}}))
        self._supervision.changed()
        if view.released:
            self._opening = asyncio.ensure_future(self.personal.opened())

    def _told(self, event: Event) -> None:
        self.windows.interrupt()
        self._loop.call_soon_threadsafe(self.personal.heard, event)

    def _open_source(self) -> Source:
        self._opened = audio = self._config.audio
        return open_source(audio.device, channel=audio.channel, gain_db=audio.gain_db)

    def _heard(self) -> None:
        self._first_block_ms = process.age_ms()
        log.info("first block after %.0f ms", self._first_block_ms)

    # -- configuration ------------------------------------------------------------------------------------------

    @property
    def _config(self) -> Config:
        return self._settings.config

    def reload(self) -> dict[str, object]:
        """Read the configuration again; on any error keep the old one, and return what is wrong. No audio is lost."""
        self._supervision.reloading()
        try:
            waits = self._reload()
            return {"taken": True, "at_next_start": list(waits), "problems": []}
        except ConfigError as error:
            return {"taken": False, "at_next_start": [], "problems": as_problems(error.problems)}
        finally:
            self._supervision.reloaded()

    def _reload(self) -> tuple[str, ...]:
        audio, waits = self._config.audio, self._settings.reload()
        self.personal.relisten()
        if self._config.audio != audio:
            self._capture.reopen()
        logging.getLogger().setLevel(self._config.log_level.upper())
        _warn_of_age(self._config)
        self._works()
        return waits

    def _works(self) -> None:
        self._settings.works(self._opened if self._capture.health.state == "running" else None)

    def _listen(self, household: Household | None, profile: str, asking: bool, carried: EarlierModel | None) -> None:
        """Tell inference what to listen for: wishes, taught phrases, and a "yes" where one is waited for."""
        base = listening_for(self._config, self._bundle)
        if asking and "yes" in base.classes:
            base = also_always(base, "yes")
        taught = (*(household.taught if household else ()), *(carried.phrases if carried else ()))
        wish = with_taught(base, tuple(dict.fromkeys(taught)), self._config.listening.sensitivity)
        wish = recognizer.for_people(wish, self._config, self.personal.profiles)
        self._inference.listen_for(wish, household, profile, carried)
        self.streams.listen_for(wish, household, profile, carried)

    def _wish(self, profile: str) -> Wish:
        """Return what counts in a turn of somebody's, besides what was taught. Called on the thread of the keys."""
        return wish_of(self._config, self._bundle, self.personal.profiles, profile)

    def _stirred(self) -> None:
        self._inference.released = self._capture.health.state != "running"
        self._supervision.stirred()
        health = self._capture.health
        self.box.microphone(health.state)
        with contextlib.suppress(RuntimeError):  # the loop has ended in this very moment
            self._loop.call_soon_threadsafe(self._microphone_changed, health)

    def _microphone_changed(self, health: MicrophoneHealth) -> None:
        self._outages.changed(health)
        if health.state == "running":
            self._works()

    def _moment(self) -> Moment:
        state = str(self._listening()["state"])
        return Moment(
            self._model, str(self._settings.status()["state"]), self.proofs.view, self._capture.health, state,
            Path(self._config.idle.machine),
        )  # fmt: skip

    def _condition(self) -> Condition:
        name = f"bundle {self._bundle.name} v{self._bundle.version}"
        return Condition(self._capture.health, self.proofs.view, self._pausing.active, name, self._settings.trouble())

    def _deaf(self) -> str:
        """Return why nobody can be heard, "" when all is well."""
        if self._pausing.active:
            return "is released: idiolect resume listening"
        health = self._capture.health
        return "" if health.state == "running" else f"does not run: {health.reason or health.state}"

    def config(self) -> dict[str, object]:
        """Return the configuration in force."""
        return as_dict(self._config)

    def origins(self) -> dict[str, object]:
        """Return for each key that is set, in which file and line."""
        return {key: {"file": place.source, "line": place.line} for key, place in self._config.places.items()}

    # -- pausing ------------------------------------------------------------------------------------------------

    def pause(self, seconds: float | None) -> None:
        """Release the microphone, for so many seconds or until resumed (None)."""
        self._pausing.pause(seconds)

    def resume(self) -> None:
        """Open the microphone again and listen."""
        self._pausing.resume()

    def _paused(self) -> None:
        self.hub.publish(StateChange(self._names(), time.time(), {"listening": self._listening()}))
        self._supervision.changed()

    def _listened(self) -> set[str]:
        """Return the bundle's phrases and wake words that are listened for."""
        wish = self._config.listening
        wakes = self._bundle.wake_words if wish.wake_words == "all" else wish.wake_words
        return {*wakes, *wish.always_on, *(self._bundle.commands if wish.phrases == "all" else wish.phrases)}

    def _listening(self) -> dict[str, object]:
        state = "paused" if self._pausing.active else self._inference.state
        return {"state": state, "paused_until": self._pausing.until}

    # -- what others ask ----------------------------------------------------------------------------------------

    def status(self) -> dict[str, object]:
        """Return the state of every part, for `idiolect status`."""
        health, view = self._capture.health, self.proofs.view
        return {
            "version": __version__,
            "uptime_s": round(process.age_ms() / 1000, 1),
            "configuration": self._settings.status(),
            "listening": self._listening(),
            "playback": self.box.status(),
            "microphone": {name: getattr(health, name) for name in health.__slots__},
            "bundle": {
                **recognizer.described(self._bundle),
                "signed": self._model.signed,
                "digest": self._model.digest,
            },
            "keystore": self._config.keystore
            if view.protected
            else f"{self._config.keystore} (not hardware protected)",
            "keys": {**{name: getattr(view, name) for name in view.__slots__}, "text": sentence(view)},
            "personalization": self.personal.status(),
            "learning": self.windows.status(),
            "interpreter": self._runtime,
            "events": self._inference.events,
            "handoff": self._connections.handoff,
            "first_block_ms": self._first_block_ms,
            "rss_mib": round(process.rss_mib(), 1),
        }

    async def devices(self) -> list[dict[str, object]]:
        """Return the capture devices; requests that come while the devices are looked up share one answer."""
        return await self._asked_devices.get()

    async def _look_for_devices(self) -> list[dict[str, object]]:
        """Ask libasound on a helper thread, as it may take a moment."""
        return [{"name": d.name, "description": d.description} for d in await asyncio.to_thread(list_devices)]

    async def doctor(self) -> list[dict[str, object]]:
        """Return findings about the running daemon, for `idiolect doctor`."""
        return await self._asked_doctor.get()

    async def _examine(self) -> list[dict[str, object]]:
        wish, findings = self._config.listening, await self.proofs.examine()
        sensed, leaving = await self.windows.examine()
        layers = await asyncio.to_thread(self._prober.layers)
        return doctor.examine(
            lambda: doctor.configuration(self._settings.status()),
            lambda: doctor.microphone(self._capture.health),
            lambda: doctor.listening(wish.mode, wish.wake_words, wish.always_on),
            lambda: doctor.bundle(
                self._bundle.name, self._bundle.version, signed=self._model.signed, lacks=self._bundle.lacks
            ),
            lambda: doctor.keys(self.proofs.view, findings),
            lambda: doctor.earlier_encoder(self.personal.standing),
            lambda: doctor.names(self.personal.refused_names),
            lambda: doctor.state_directory(Path(self._config.state_dir)),
            lambda: doctor.swap(read_swapping(Path("/"))),
            lambda: doctor.idle(self._config.idle, sensed, leaving),
            lambda: doctor.confinement(process.confinement()),
            lambda: doctor.sandbox(layers),
        )


async def _ended(thread: threading.Thread) -> None:
    """Wait for a thread's end, ``STOP_S`` at most; without a helper thread, as these may all be busy."""
    until = time.monotonic() + STOP_S
    while thread.is_alive() and time.monotonic() < until:
        await asyncio.sleep(0.005)


def _warn_of_age(config: Config) -> None:
    for note in config.outdated:
        log.warning("configuration: %s", note)


def start(given: Sequence[Path] | None, installed: Callable[[], Sequence[Path]] = installed_files) -> int:
    """Load the configuration and run; return the exit code. Every reason for a failure goes to stderr or the journal.

    Without ``given`` files those that are ``installed`` count, listed anew at every reload.
    """

    def files() -> Sequence[Path]:
        return given or installed()

    process.harden()
    process.wipe_freed()
    process.return_freed()
    if handler := systemd.journal():
        logging.getLogger().handlers[:] = [handler]
    notifier = None
    try:
        notifier = Notifier()
        begun = begin(lambda without: load(files(), without))
        logging.getLogger().setLevel(begun.config.log_level.upper())
        _warn_of_age(begun.config)
        service = Service(begun, files, notifier)
        # What is there by now stays, and a full collection looks through all of it while every thread stands still:
        # 17 ms on a server, half a second where a thirtieth of a core is left.
        gc.freeze()
        return service.run()
    except IdiolectError as error:
        if notifier:
            notifier.status(f"did not start: {reason(error)}")
        _complain(error, journal=handler is not None)
        if error.exit_code == REFUSED:
            turn_away(reason(error))
        return error.exit_code


def _complain(error: IdiolectError, *, journal: bool) -> None:
    """Write why the start failed: to the journal as critical messages, else to stderr as text."""
    if not journal:
        print(error, file=sys.stderr)
        return
    for line in str(error).splitlines():
        log.critical("did not start: %s", line)
