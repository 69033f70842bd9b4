"""What happens to adapters by itself: expiry, retirement, self-tests, trials, and what is taken back."""

from dataclasses import replace

import numpy as np

from idiolect.learning import rollout
from idiolect.learning.worker.process import Worker
from idiolect.people.consent import ADAPTER
from idiolect.people.feedback import Said
from idiolect.people.learner import DISUSE_DAYS, SHADOW_DAYS
from idiolect.people.review import Rights
from idiolect.people.versions import settle
from tests.support.homes import DAY, ENCODER, Home, story
from tests.support.learners import invented, model, span


@story
async def test_a_device_that_was_off_for_a_year_does_what_has_gathered(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        await home.windows.look()
        assert home.status["done"] == {"checkpoint": 1}
    async with Home(tmp_path) as home:
        home.wall += 400 * DAY
        await home.windows.look()  # the first night: one glance makes nothing expire
        assert home.status["done"] == {"selftest": 1, "checkpoint": 1}
        assert len((await home.do(lambda learner: learner.ledger(profile))).examples) == 3
        home.wall += DAY
        await home.windows.look()
        assert home.status["done"]["expire"] == 1
        assert (await home.do(lambda learner: learner.ledger(profile))).examples == ()
        assert await home.versions(profile) == []
        text = await home.do(lambda learner: Rights(learner).explain(learner.consents.find("Ann")))
        assert any("kept as long as was agreed" in line for line in text["text"])
        before = home.status["done"]
        await home.windows.look()
        assert home.status["done"] == before


@story
async def test_expired_examples_go_without_waiting_and_the_rest_is_learnt_anew(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        await home.windows.look()
        home.wall += 200 * DAY
        await home.teach(profile, 2, phrase="good night")
        home.quiet = 0.0  # somebody speaks all the time: nothing is learnt, but things expire
        for _ in range(2):
            home.wall += 100 * DAY
            await home.windows.look()
            home.wall += DAY
            await home.windows.look()
        phrases = {e.phrase for e in (await home.do(lambda learner: learner.ledger(profile))).examples}
        assert phrases == {"good night"}
        assert await home.versions(profile) == []
        home.quiet = 3600.0
        await home.windows.look()
        (version,) = await home.versions(profile)
        assert version.in_use
        assert "adapter-retired" in await home.kinds()
        assert await home.do(lambda learner: learner.retired(profile)) is None


@story
async def test_whom_nobody_hears_for_half_a_year_is_retired_until_asked_for(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        home.learner.recalled.clear()
        for days in (DISUSE_DAYS + 1, 1):
            home.wall += days * DAY
            await home.windows.look()
        assert await home.versions(profile) == []
        assert len((await home.do(lambda learner: learner.ledger(profile))).examples) == 3
        home.wall += DAY
        await home.windows.look()
        assert await home.versions(profile) == []
        home.personal.address(profile)
        await home.windows.look()
        assert [v.in_use for v in await home.versions(profile)] == [True]


@story
async def test_another_encoder_retires_what_was_learnt_and_says_so(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
    other = replace(model(), digest="ab" * 32)
    home = Home(tmp_path, known=other)
    home.personal._encoder = "f" * 64
    async with home:
        assert await home.versions(profile) == []
        text = await home.do(lambda learner: Rights(learner).explain(learner.consents.find("Ann")))
        assert any("another encoder" in line for line in text["text"])
        await home.windows.look()
        assert home.status["done"] == {"checkpoint": 1}
        await home.teach(profile)
        assert [v.in_use for v in await home.versions(profile)] == [True]


@story
async def test_a_version_on_trial_is_not_replaced_every_night(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        await home.do(
            lambda learner: learner.add(profile, "enrolment", "good night", [invented(2, t) for t in range(3)], "09")
        )
        await home.windows.look()
        assert [v.state.value for v in await home.versions(profile)] == ["canary", "shadow"]
        await home.correct(profile)
        await home.windows.look()
        assert home.status["done"]["rebuild"] == 1
        home.windows.ask()
        await home.windows.look()
        assert home.status["done"]["rebuild"] == 2  # who asks does not wait
        await home.correct(profile, "no")
        home.wall += SHADOW_DAYS * DAY
        await home.windows.look()
        assert home.status["done"]["rebuild"] == 3


@story
async def test_an_adapter_that_became_worse_in_use_is_taken_back_by_itself(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        (version,) = await home.versions(profile)
        active = replace(version, state=rollout.State.ACTIVE)
        await home.do(lambda learner: settle(learner, profile, [active]))
        understood = await home.do(_clear)
        rejected = [Said(profile, "", window) for window in understood[:4]]
        home.personal._said = rejected
        await home.personal.flush()
        assert rollout.in_use(await home.versions(profile)) is not None  # four may be chance
        home.personal._said = [Said(profile, "", window) for window in understood[4:6]]
        await home.personal.flush()
        assert rollout.in_use(await home.versions(profile)) is None
        entries = await home.do(
            lambda learner: [e for e in learner.vault.audit_entries(20) if e.kind == "adapter-moved"]
        )
        assert '"rolled-back"' in entries[-1].body
        assert '"lost":5' in entries[-1].body


def _clear(learner):
    """Spans of other people that the base model understands."""
    from idiolect.learning import gate
    from idiolect.listening.pipeline.space import offset_windows

    spans = [span(label, n)[0] for label in ("yes", "no", "left", "right") for n in range(6)]
    heard = learner.model.hear(offset_windows(np.stack(spans)))
    return [s for s, said in zip(spans, gate.spoken(learner.model, None, heard), strict=True) if said]


@story
async def test_the_weekly_self_test_is_in_the_report_and_in_the_log(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        await home.windows.look()
        assert "selftest" not in home.status["done"]
        home.wall += 7 * DAY
        await home.windows.look()
        assert home.status["done"]["selftest"] == 1
        report = await home.do(lambda learner: Rights(learner).report(learner.consents.find("Ann")))
        slices = {each["slice"]: each for each in report["selftest"]["slices"]}
        assert slices["own: taught phrases"]["total"] == 3
        assert slices["others: all"]["total"] == len(model().guard_labels)
        assert any(name.startswith("others: noise") for name in slices)
        assert report["selftest"]["worse"] == ""
        assert "self-tested" in await home.kinds()
        await home.windows.look()
        assert home.status["done"]["selftest"] == 1


@story
async def test_a_self_test_that_fails_takes_the_adapter_back(tmp_path, monkeypatch):
    from idiolect.learning import messages, self_test

    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        home.wall += 7 * DAY
        worse = [self_test.Slice(self_test.UNSEEN, 12, 9, 8, 0), self_test.Slice("others: all", 400, 50, 0, 0)]
        monkeypatch.setattr(messages, "read_selftest", lambda _: tuple(worse))
        await home.windows.look()
        assert rollout.in_use(await home.versions(profile)) is None
        entries = await home.do(lambda learner: [e for e in learner.vault.audit_entries(9) if e.kind == "self-tested"])
        assert '"passed":0' in entries[-1].body


@story
async def test_of_what_is_forgotten_not_even_a_digest_stays(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        assert await home.do(lambda learner: learner.last_round(profile)) is not None
        await home.do(lambda learner: Rights(learner).forget(learner.consents.find("Ann"), {"all": True}))
        assert await home.do(lambda learner: learner.last_round(profile)) is None
        review = await home.do(lambda learner: Rights(learner).review(learner.consents.find("Ann")))
        assert review["upkeep"] == {}
        await home.windows.look()
        assert home.status["done"] == {"checkpoint": 1}


@story
async def test_what_learning_keeps_of_its_own_is_in_the_review(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        home.wall += 7 * DAY
        await home.windows.look()
        review = await home.do(lambda learner: Rights(learner).review(learner.consents.find("Ann")))
        assert review["upkeep"] == {"last_round": "2024-10-04", "last_tested": "2024-10-11"}


@story
async def test_a_damaged_adapter_is_not_used_and_stops_nobody(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        assert home.personal.status()["adapters"] == {profile: 1}
        files = home.learner.files
        monkeypatch.setattr(home.learner, "files", lambda: [(data[:-1] + b"!", digest) for data, digest in files()])
        await home.personal.reload()
        assert home.personal.status()["adapters"] == {}


@story
async def test_forgetting_holds_even_where_no_worker_runs(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        await home.teach(profile, 2, phrase="good night")
        home.learner.backend = Worker(["/bin/false"])
        answer = await home.do(
            lambda learner: Rights(learner).forget(learner.consents.find("Ann"), {"phrase": "good night"})
        )
        assert (answer["forgotten"], answer["adapter"]) == (3, 0)
        assert await home.versions(profile) == []
        home.learner.backend = Worker()
        await home.windows.look()
        assert [v.in_use for v in await home.versions(profile)] == [True]


@story
async def test_a_forged_adapter_of_one_keeps_nobody_else_from_learning(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        ann, ben = await home.agree("Ann"), await home.agree("Ben")
        await home.teach(ann)

        def forge(learner):
            raw = learner.vault.get(ann, ADAPTER, "adapter", "00000001")
            with learner.vault.change("put", False, profile=ann, purpose="adapter", count=1) as change:
                change.put(ann, ADAPTER, "adapter", "00000001", raw[:-1] + b"!", ENCODER)

        await home.do(forge)
        await home.correct(ben)
        home.wall += 30 * DAY
        await home.windows.look()
        assert home.status["done"] == {"rebuild": 1, "checkpoint": 1}
    async with Home(tmp_path) as home:
        assert ann not in home.personal.status()["adapters"]
        assert home.personal.open
