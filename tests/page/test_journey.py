"""What a person does with the page, in a browser, at a whole daemon that hears."""

import getpass
import json

import pytest
import soundfile

from tests.page.conftest import enter, expect, good_takes, picture, said, speak_when_asked, view
from tests.support import speech
from tests.support.pages import PageHome
from tests.whole.test_people import PHRASE, take


def switch(page, name):
    return page.get_by_role("switch", name=name, exact=True)


def agree(page, *names):
    """Turn switches on, as somebody who is paired with a login."""
    view(page, "consent")
    for name in names:
        switch(page, name).click()
        page.get_by_role("dialog").get_by_role("button", name="Yes, I agree").click()
        said(page, f"Agreed: {name}.")
        expect(switch(page, name)).to_have_attribute("aria-checked", "true")


def test_a_wrong_code_lets_nobody_in(home, open_page):
    page = open_page(home)
    page.goto(home.url)
    code = page.get_by_role("textbox", name="Code")
    code.fill("AAAA-AAAA")
    page.keyboard.press("Enter")
    page.get_by_text("That is no valid code").wait_for()
    assert code.get_attribute("aria-invalid") == "true"
    expect(code).to_be_focused()
    picture(page, "pair-wrong")
    code.fill("")
    code.press_sequentially(home.pair().replace("-", "").lower())
    page.keyboard.press("Enter")
    page.wait_for_selector("#view-now")
    assert page.evaluate("document.cookie") == "", "no script can read it"


def test_what_telling_voices_apart_still_lacks_is_said_where_it_is_shown(home, open_page):
    page = enter(open_page(home), home)
    agree(page, "Phrases you teach", "Your corrections")
    assert "your voice yet" not in view(page, "consent").inner_text()
    agree(page, "Telling voices apart")
    lack = "It cannot tell your voice yet: it needs 3 more corrections or takes of phrases that everybody has, such as"
    view(page, "consent").get_by_text(lack).wait_for()
    view(page, "kept").get_by_text(lack).wait_for()
    german = enter(open_page(home, locale="de-DE"), home)
    view(german, "consent").get_by_text("Es braucht noch 3 Berichtigungen oder Aufnahmen").wait_for()


def test_from_consent_over_teaching_to_oblivion(home, open_page):
    page = enter(open_page(home), home)
    view(page, "kept").get_by_text("Nothing is stored about you.").wait_for()
    view(page, "teach").get_by_text("you have not agreed to that yet").wait_for()
    agree(page, "Phrases you teach", "Your corrections")

    view(page, "teach")
    page.get_by_role("textbox", name="Phrase").fill(PHRASE)
    page.get_by_role("button", name="Begin").click()
    page.get_by_text("Say it now: take 1 of 3.").wait_for()
    takes = good_takes()
    state = speak_when_asked(home, [take(1.0, 0.01), *takes])
    assert (state["state"], state["taken"]) == ("done", 3)
    page.get_by_text("Learnt. It is in use on trial").wait_for()
    picture(page, "taught")

    view(page, "now")
    home.talker.say(take(1.05, 0.8))
    row = page.locator(".events li").first
    row.get_by_text(PHRASE).wait_for()
    home.talker.say(speech.digit(4))
    row.get_by_text("four").wait_for()
    row.get_by_role("button", name="I meant").click()
    row.get_by_role("combobox", name="I meant").select_option("five")
    row.get_by_role("button", name="Correct").click()
    said(page, "Thank you.")
    row.get_by_text("Noted").wait_for()
    expect(row).to_be_focused()
    picture(page, "now")

    kept = view(page, "kept")
    kept.get_by_text("3 examples", exact=True).click()
    kept.get_by_text("heard as").wait_for(state="attached")
    kept.get_by_role("button", name=f"Forget: example 1 of “{PHRASE}”").click()
    said(page, "One example is forgotten.")
    assert len(home.client.get("/v1/review", profile="ann")["examples"]) == 3
    assert kept.get_by_text("2 examples", exact=True).is_visible(), "what was unfolded stays so"
    page.get_by_role("button", name="Forget this phrase").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Forget", exact=True).click()
    said(page, "2 examples are forgotten.")
    assert [e["phrase"] for e in home.client.get("/v1/review", profile="ann")["examples"]] == ["five"]
    page.get_by_role("button", name="Forget this day").click()
    page.get_by_role("dialog").get_by_role("button", name="Forget", exact=True).click()
    said(page, "One example is forgotten.")
    assert home.client.get("/v1/review", profile="ann")["examples"] == []
    assert PHRASE not in page.content()
    assert PHRASE not in home.log


def test_a_phrase_is_everybodys_while_its_owner_lets_them(home, open_page):
    home.agree("enrol")
    page = enter(open_page(home), home)
    home.client.post("/v1/enrol", {"profile": "ann", "phrase": PHRASE, "samples": 3})
    assert speak_when_asked(home, good_takes())["state"] == "done"
    home.client.post("/v1/profile", {"profile": "guest"})
    share = page.get_by_role("button", name=f"Let everybody say “{PHRASE}”")
    view(page, "kept").get_by_text("3 examples", exact=True).click()
    assert not share.count()
    agree(page, "Phrases for everybody")
    view(page, "kept")  # what was unfolded stays so
    share.click()
    said(page, "Everybody may say it now.")
    page.get_by_text("Everybody may say it.", exact=True).wait_for()
    view(page, "consent").get_by_text(f"Everybody may say, guests too: “{PHRASE}”").wait_for()
    home.talker.say(take(1.05, 0.8))
    home.wait(lambda: any((e["phrase"], e["profile"]) == (PHRASE, "guest") for e in home.events()))
    view(page, "kept")
    page.get_by_role("button", name=f"Nobody but me says “{PHRASE}”").click()
    said(page, "It is yours alone again.")
    assert home.client.get("/v1/consent")["household"] == []


def test_what_is_withdrawn_or_erased_is_gone(home, open_page):
    home.agree("enrol", "usage")
    page = enter(open_page(home), home)
    view(page, "consent")
    switch(page, "How often you say what").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(switch(page, "How often you say what")).to_have_attribute("aria-checked", "true")
    expect(switch(page, "How often you say what")).to_be_focused()
    switch(page, "How often you say what").click()
    picture(page, "withdraw")
    page.get_by_role("dialog").get_by_role("button", name="Take back and delete").click()
    said(page, "Taken back")
    expect(switch(page, "How often you say what")).to_have_attribute("aria-checked", "false")
    assert list(home.client.get("/v1/consent")["people"][0]["purposes"]) == ["enrol"]

    view(page, "copy")
    page.get_by_role("button", name="Erase everything …").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox").fill("somebody")
    dialog.get_by_role("button", name="Erase", exact=True).click()
    dialog.get_by_text("That is something else.").wait_for()
    assert home.client.get("/v1/consent")["people"], "not before it was confirmed"
    picture(page, "erase")
    dialog.get_by_role("textbox").fill("Ann")
    page.keyboard.press("Enter")
    page.wait_for_selector("#view-pair")
    said(page, "Erased.")
    assert home.client.get("/v1/consent")["people"] == []


@pytest.mark.slow
def test_a_spoken_yes_is_an_answer_and_silence_is_none(tmp_path, sounds, data, open_page):
    with PageHome(tmp_path, people=()) as home:
        page = enter(open_page(home), home, "ann")
        view(page, "consent")
        switch(page, "Phrases you teach").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("Say “yes” to the device now.").wait_for()
        assert "how you say phrases that you teach it" in dialog.inner_text()
        picture(page, "spoken")
        assert home.client.get("/v1/consent")["people"] == []
        for path in sorted((data / "speech_commands" / "yes").glob("*.flac"))[:6]:
            yes = soundfile.read(path, dtype="int16")[0]
            home.talker.say(yes)
            if home.client.get("/v1/consent")["people"]:
                break
        said(page, "Agreed: Phrases you teach.")
        expect(switch(page, "Phrases you teach")).to_have_attribute("aria-checked", "true")
        assert home.client.get("/v1/consent")["people"][0]["purposes"]["enrol"]["how"] == "spoken"

        switch(page, "Your corrections").click()
        dialog.get_by_role("button", name="Close").click()
        switch(page, "Your confirmations").click()
        said(page, "One question is still open.")
        page.locator("#said").get_by_text("No “yes” was heard.").wait_for(timeout=40_000)
        expect(switch(page, "Your corrections")).to_have_attribute("aria-checked", "false")


def test_teaching_can_be_given_up_and_is_found_again(home, open_page):
    home.agree("enrol")
    page = enter(open_page(home), home)
    view(page, "teach")
    page.get_by_role("textbox", name="Phrase").fill(PHRASE)
    page.keyboard.press("Enter")
    page.get_by_text("Say it now").wait_for()
    page.reload()
    page.get_by_text("Say it now").wait_for()
    home.talker.say(take(1.0, 0.8), wait=False)
    meter = page.get_by_role("meter", name="Level at the microphone")
    home.wait(lambda: float(meter.get_attribute("aria-valuenow")) > -50)
    picture(page, "teaching")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled. Nothing was kept.").wait_for()
    assert home.client.get("/v1/enrol")["state"] == "cancelled"
    expect(page.get_by_role("button", name="Teach another")).to_be_focused()
    page.get_by_role("button", name="Teach another").click()
    page.get_by_role("textbox", name="Phrase").wait_for()
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "enrol" in request.url else None)
    page.wait_for_timeout(600)
    assert asked == [], "nobody teaches, so nobody looks"


def test_pausing_and_resuming(home, open_page):
    page = enter(open_page(home), home)
    page.get_by_label("For how long").first.select_option("3600")
    page.get_by_role("button", name="Pause listening").click()
    page.get_by_text("Paused until").wait_for()
    status = home.status()["listening"]
    assert status["state"] == "paused"
    assert status["paused_until"]
    page.get_by_role("button", name="Pause learning").click()
    page.get_by_text("Paused: nothing is learnt or kept.").wait_for()
    picture(page, "paused")
    assert home.status()["personalization"]["state"] == "paused"
    page.get_by_role("button", name="Resume learning").click()
    page.get_by_role("button", name="Resume listening").click()
    page.get_by_role("button", name="Pause listening").wait_for()
    assert home.status()["listening"]["state"] != "paused"
    assert home.status()["personalization"]["state"] == "on"
    home.client.post("/v1/listening", {"active": False})
    page.get_by_role("button", name="Resume listening").wait_for()  # what others do is seen too


def test_versions_go_back_with_one_press(home, open_page):
    home.agree("enrol")
    home.client.post("/v1/enrol", {"profile": "ann", "phrase": PHRASE, "samples": 3})
    assert speak_when_asked(home, good_takes())["state"] == "done"
    page = enter(open_page(home), home)
    learnt = view(page, "learnt")
    learnt.get_by_text("Version 1 is on trial.").wait_for()
    assert learnt.get_by_role("img", name="Learning curve").is_visible()
    learnt.get_by_text("As a table").click()
    assert learnt.get_by_role("row", name="1 – 0%").is_visible()
    learnt.get_by_role("button", name="Go back one version").click()
    said(page, "You are understood with the base model again.")
    assert home.status()["personalization"]["adapters"] == {}
    learnt.get_by_text("taken back", exact=True).wait_for()
    expect(page.locator("#history h2")).to_be_focused()


@pytest.mark.parametrize("passphrase", ["", "correct horse battery"])
def test_a_copy_is_taken_along_and_brought_back(home, open_page, tmp_path, passphrase):
    home.agree("enrol")
    home.client.post("/v1/enrol", {"profile": "ann", "phrase": PHRASE, "samples": 2})
    assert speak_when_asked(home, good_takes()[:2])["state"] == "done"
    page = enter(open_page(home), home)
    view(page, "copy")
    page.get_by_label("Passphrase (optional)").fill(passphrase)
    page.get_by_label("The passphrase again").fill("x")
    page.get_by_role("button", name="Download").click()
    said(page, "The two passphrases differ.")
    page.get_by_label("The passphrase again").fill(passphrase)
    with page.expect_download() as caught:
        page.get_by_role("button", name="Download").click()
    copy = tmp_path / "copy.json"
    caught.value.save_as(copy)
    assert (PHRASE in copy.read_text()) is (passphrase == "")
    assert json.loads(copy.read_text())["schema"]
    home.client.post("/v1/forget", {"profile": "ann", "all": True})
    junk = tmp_path / "junk.json"
    junk.write_text("no JSON")
    page.get_by_label("File").set_input_files(junk)
    page.get_by_role("button", name="Bring back").click()
    said(page, "That file is no copy.")
    page.get_by_label("File").set_input_files(copy)
    page.get_by_label("Its passphrase, if it has one").fill(passphrase)
    page.get_by_role("button", name="Bring back").click()
    said(page, "2 examples were taken over.")
    assert len(home.client.get("/v1/review", profile="ann")["examples"]) == 2


def test_a_browser_that_is_shut_out_sees_nothing_more(home, open_page):
    home.agree()
    page = enter(open_page(home), home)
    view(page, "kept")
    home.client.post("/v1/pair/forget", {"all": True})
    page.click('nav a[href="#learnt"]')
    page.wait_for_selector("#view-pair")
    said(page, "The device does not know this browser any more.")
    assert page.locator("nav").is_hidden()
    assert "ann" not in page.inner_text("body")


def test_forgetting_the_browser_ends_its_session(home, open_page):
    home.agree()
    page = enter(open_page(home), home)
    page.get_by_role("button", name="Forget this browser").click()
    page.wait_for_selector("#view-pair")
    page.reload()
    page.wait_for_selector("#view-pair")
    assert home.client.get("/v1/pair")["browsers"] == []


def test_events_go_on_after_a_restart_of_the_device(home, open_page):
    home.agree()
    page = enter(open_page(home), home)
    home.stop()
    said(page, "The device does not answer.")
    home.start().ready()
    home.wait(lambda: home.status()["personalization"]["state"] == "on")
    home.wait(home.socket.exists)
    said(page, "The device is back.")
    home.talker.follow(home.client)
    home.talker.say(speech.digit(7))
    page.locator(".events li").first.get_by_text("seven").wait_for()


def test_what_others_said_is_not_shown_and_guests_are_not_learnt_from(home, open_page):
    home.agree("enrol", "adapt_corrections")
    bens = enter(open_page(home), home, "ben")
    anns = enter(open_page(home), home)
    home.talker.say(speech.digit(7))
    for page in (anns, bens):
        page.locator(".events li").first.get_by_text("Guest: nothing is learnt from this.").wait_for()
    anns.get_by_role("button", name="It is me").click()
    anns.get_by_text("The device takes you for the one who speaks.").wait_for()
    home.talker.say(speech.digit(4))
    anns.locator(".events li").first.get_by_text("four").wait_for()
    assert bens.get_by_text("four").count() == 0
    bens.reload()
    bens.get_by_text("The device takes somebody else for the one who speaks.").wait_for()
    assert bens.get_by_text("four").count() == 0
    assert bens.locator(".events li").count() == 1


def test_to_whom_the_sound_goes_and_that_the_box_plays_is_shown(tmp_path, sounds, open_page):
    home = PageHome(tmp_path)
    user = getpass.getuser()
    home.config.write_text(home.config.read_text() + f"handoff: {{user: {user}, socket: {tmp_path}/handoff.sock}}\n")
    with home:
        home.client.post("/v1/playback", {"active": True})
        page = enter(open_page(home), home)
        page.get_by_text(f"is meant to go to another program on this device: {user}. It is not connected.").wait_for()
        page.get_by_text("The box is playing something itself").wait_for()
        picture(page, "handoff")
        home.client.post("/v1/playback", {"active": False})
        page.get_by_text("The box is playing something itself").wait_for(state="detached", timeout=20_000)


def test_in_the_network_it_is_the_same_under_tls(tmp_path, sounds, open_page):
    with PageHome(tmp_path, access="lan") as home:
        home.agree()
        page = open_page(home)
        page.goto(home.url)
        page.get_by_text("Compare its SHA-256 fingerprint").wait_for()
        enter(page, home)
        page.get_by_role("button", name="It is me").click()
        page.get_by_text("The device takes you for the one who speaks.").wait_for()
        home.talker.say(speech.digit(7))
        page.locator(".events li").first.get_by_text("seven").wait_for()
        (cookie,) = page.context.cookies()
        assert (cookie["name"], cookie["secure"], cookie["httpOnly"]) == ("__Host-idiolect", True, True)


def test_who_guesses_codes_has_to_wait(home, open_page):
    page = open_page(home)
    page.goto(home.url)
    code = page.get_by_role("textbox", name="Code")
    for number in range(7):
        code.fill(f"AAAA-AAA{number}")
        with page.expect_response("**/v1/session"):
            page.keyboard.press("Enter")
    page.get_by_text("Too many tries. Wait a little.").wait_for()


def test_names_and_phrases_are_text_whatever_they_look_like(home, open_page):
    name = '<img src=x onerror="alert(1)"> {n}'
    page = enter(open_page(home), home, name)
    assert page.locator("#who").inner_text() == name
    page.get_by_text(f"This browser is paired as {name} until").wait_for()
    assert page.locator("img").count() == 0
