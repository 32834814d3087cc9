import base64

import openai
import pytest
from test_hostile import send

from demo.serve import auth
from demo.serve.auth import Logins, credentials, hash_password
from demo.serve.server import hosts, launch
from qformer.contracts import LoupeError


@pytest.fixture(scope="module")
def cheap():
    """The cheapest cost that is taken: these tests hash often."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth, "COST", 10)
        yield


@pytest.fixture(scope="module")
def locked(tiny_assistant, cheap):
    server = launch(
        lambda: tiny_assistant, "tiny", port=0, logins=Logins([f"ann:{hash_password('pass:word')}"])
    )
    server.loader.wait()
    yield server
    server.close()


def basic(name, password):
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def test_a_hash_tells_nothing_and_no_two_are_alike(cheap):
    one, two = hash_password("pass:word"), hash_password("pass:word")
    assert one != two
    assert "word" not in one
    assert not set(one) & set(" $:'\"\\")  # safe in a shell and in a compose file


@pytest.mark.parametrize("entry", ["", "ann", "ann:", ":x", "ann:password", "ann:scrypt.9.x.y",
                                   "ann:scrypt.30." + "a" * 22 + "." + "b" * 43])  # fmt: skip
def test_what_is_no_hash_is_refused(entry):
    with pytest.raises(LoupeError, match="--hash-password"):
        Logins([entry])


def test_only_the_right_name_and_password_come_in(locked):
    assert send(locked, "GET", "/v1/models", None, basic("ann", "pass:word"))[0] == 200
    bearer = {"authorization": "Bearer ann:pass:word"}
    assert send(locked, "GET", "/v1/models", None, bearer)[0] == 200
    for headers in ({}, basic("ann", "word"), basic("bob", "pass:word"), basic("", ""),
                    {"authorization": "Basic !!!"}, {"authorization": "Digest x"},
                    {"authorization": "Bearer pass:word"}):  # fmt: skip
        for path in ("/", "/config", "/v1/models", "/metrics", "/gradio_api/info"):
            assert send(locked, "GET", path, None, headers)[0] in (401, 429)


def test_whether_it_is_well_is_said_to_all(locked):
    assert send(locked, "GET", "/health") == (200, {"status": "ok", "ready": True})


def test_openais_client_brings_name_and_password_as_its_key(locked):
    base = f"{locked.local_url}v1"
    client = openai.OpenAI(base_url=base, api_key="ann:pass:word", max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_a_password_is_worked_out_once(cheap):
    logins = Logins([f"ann:{hash_password('pass:word')}"])
    assert logins.remembered("Bearer ann:pass:word") is None
    assert logins.check("Bearer ann:pass:word", "here") == "ann"
    assert logins.remembered("Bearer ann:pass:word") == "ann"


def test_guessing_is_slowed(cheap):
    logins = Logins([f"ann:{hash_password('pass:word')}"])
    for _ in range(auth.TRIES):
        assert logins.must_wait("there") == 0
        assert logins.check("Bearer ann:guess", "there") is None
    assert logins.must_wait("there") > 0
    assert logins.must_wait("elsewhere") == 0


def test_credentials_are_read_as_browsers_and_programs_send_them():
    assert credentials("Bearer ann:a:b") == ("ann", "a:b")
    assert credentials(basic("ann", "a:b")["authorization"]) == ("ann", "a:b")
    assert credentials("bearer") == ("", "")


def test_a_server_without_logins_answers_to_its_own_names_only():
    assert hosts("127.0.0.1", None, "https://loupe.example/chat")[-1] == "loupe.example"
    assert "evil.example" not in hosts("127.0.0.1", None, None)
    assert hosts("0.0.0.0", Logins([]), None) is None
