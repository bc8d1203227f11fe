"""What a server refuses, what it stops, and that it goes on."""

import http.client
import io
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lion_multimodal.serving import ServerSettings
from processing_lion import fetching_lion
from tests.lion_multimodal.serving.conftest import CAPTION, WHERE, data_url, image_part, serving


def refused(running, *args, **options) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        running.ask(*args, **options)
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    return caught.value


def post(running, body, headers=()):
    """Status and JSON of a request that no client would make."""
    connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=60)
    try:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        all_headers = {"Content-Type": "application/json", **dict(headers)}
        connection.request("POST", "/v1/chat/completions", content, all_headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 257}, "max_tokens", "at most 256, got 257"),
        ({"max_completion_tokens": 999}, "max_completion_tokens", "at most 256, got 999"),
        ({"max_completion_tokens": 9, "max_tokens": 8}, "max_tokens", "give only one"),
        ({"n": 2}, "n", "must be 1"),
        ({"stop": ["."]}, "stop", "not supported"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"tags": 5}, "tags", "a string, a list of strings, or false"),
        ({"tags": ["dog", None]}, "tags", "a string, a list of strings, or false"),
        ({"level": "pixel_level"}, "level", "'image_level' or 'region_level'"),
        ({"extra_body": {"tag": "dog"}}, "tag", "Unrecognized request argument"),
        ({"stream": True, "temperature": -1}, "temperature", "greater than or equal to 0"),
    ],
)
def test_options_that_are_none(running, options, param, message):
    if "extra_body" in options:
        messages = [{"role": "user", "content": [image_part(data_url()), {"type": "text", "text": "What?"}]}]
        with pytest.raises(openai.BadRequestError) as caught:
            running.client.chat.completions.create(model="nano", messages=messages, **options)
        error = caught.value
    else:
        error = refused(running, "What is it?", **options)
    assert (error.status_code, error.param) == (400, param)
    assert message in error.body["message"]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], r"`messages` is not valid: list should have at least 1 item"),
        ([{"role": "user", "content": "What is it?"}], "must hold one image, got 0"),
        ([{"role": "user", "content": [image_part("data:,"), image_part("data:,")]}], "must hold one image, got 2"),
        ([{"role": "user", "content": [image_part(data_url())]}], "must end with a message that holds text"),
        ([{"role": "robot", "content": "x"}], r"`messages\[0\].role`"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], r"`messages\[0\].content\[0\]` .* 'image_url'"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"`messages\[0\].content\[0\].image_url`.* required"),
        ([{"role": "user", "content": 5}], r"`messages\[0\].content` is not valid: input should be a valid string"),
        (
            [{"role": "user", "content": [image_part(data_url())]}, {"role": "assistant", "content": "A cup"}],
            "must end with a message of the role 'user'",
        ),
    ],
)
def test_messages_that_are_no_question(running, messages, message):
    with pytest.raises(openai.BadRequestError, match=message):
        running.client.chat.completions.create(model="nano", messages=messages)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/etc/passwd", "must be an http"),
        ("file:///etc/passwd", "must be an http"),
        ("ftp://example.org/a.png", "must be an http"),
        (" http://example.org/a.png", "must be an http"),
        ("data:image/png,abc", "in base64"),
        ("data:image/png;base64,a b!", "not valid base64"),
        ("data:image/png;base64,aGVsbG8=", "no file of PNG"),
        (data_url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "no file of PNG"),
        (data_url()[:-400], "cannot be read"),
        ("http://", "could not be fetched"),
        ("http://no-such-host.invalid/a.png", "could not be fetched"),
    ],
)
def test_images_that_are_none(running, url, message):
    error = refused(running, "What is it?", url)
    assert (error.status_code, error.code) == (400, "invalid_image_url")
    assert message in error.body["message"]
    assert len(error.body["message"]) < 400


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "0x7f.1", "10.0.0.1"])
def test_addresses_of_the_servers_network_are_not_fetched(running, images, host):
    error = refused(running, "What is it?", f"http://{host}:{images}/scene.png")
    assert (error.status_code, error.code) == (400, "invalid_image_url")
    assert "not at a public address" in error.body["message"]


@pytest.mark.parametrize("target", ["http://127.0.0.2:{port}/scene.png", "http://localhost:{port}/scene.png"])
def test_nor_are_those_that_a_public_one_leads_to(running, images, monkeypatch, target):
    is_public = fetching_lion.is_public
    monkeypatch.setattr(fetching_lion, "is_public", lambda address: address == "127.0.0.3" or is_public(address))
    assert running.ask(WHERE, f"http://127.0.0.3:{images}/scene.png").choices[0].message.boxes
    error = refused(running, "What is it?", f"http://127.0.0.3:{images}/to/{target.format(port=images)}")
    assert "not at a public address" in error.body["message"]
    error = refused(running, "What is it?", f"http://127.0.0.3:{images}/to/file:///etc/passwd")
    assert "could not be fetched" in error.body["message"]


def test_the_environment_does_not_open_the_servers_network(running, images, monkeypatch):
    monkeypatch.setenv(fetching_lion.ALLOW_PRIVATE_ADDRESSES, "1")
    assert "public address" in refused(running, "What is it?", f"http://127.0.0.1:{images}/scene.png").body["message"]


def test_sizes(engine, images):
    big = io.BytesIO()
    Image.effect_noise((300, 300), 90).save(big, format="PNG")
    limits = {"max_image_bytes": 60_000, "max_image_pixels": 50_000, "max_prompt_tokens": 30, "max_answer_tokens": 20}
    limits |= {"max_request_bytes": 150_000, "allow_private_addresses": True, "fetch_timeout": 0.5}
    with serving(engine, **limits) as running:
        assert running.ask("What is it?", tags=False).choices[0].finish_reason == "stop"
        assert "more than 60000 bytes" in refused(running, "What is it?", data_url(big.getvalue())).body["message"]
        few = io.BytesIO()
        Image.new("RGB", (300, 300)).save(few, format="PNG")
        error = refused(running, "What is it?", data_url(few.getvalue()))
        assert "300x300 pixels, more than `max_pixels` (50000)" in error.body["message"]
        error = refused(running, "What is it? " * 10, tags=False)
        assert (error.status_code, error.code) == (400, "context_length_exceeded")
        assert "at most 30 tokens" in error.body["message"]
        assert refused(running, "What is it?" * 9999).code == "context_length_exceeded"
        assert refused(running, "What is it?", tags=["umbrella"] * 40).code == "context_length_exceeded"
        # By default as long as is allowed, where the checkpoint's own answers may be longer.
        cut = running.ask(CAPTION, tags=False)
        assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 20)
        error = refused(running, "What is it?", f"http://127.0.0.1:{images}/slow")
        assert "more than 0.5 seconds" in error.body["message"]
        # Of the request itself, announced or not.
        body = json.dumps({"messages": [{"role": "user", "content": "x" * 200_000}]}).encode()
        status, answer = post(running, body)
        assert (status, answer["error"]["code"]) == (413, "too_large")
        status, answer = post(running, b"", {"Content-Length": "9" * 19, "Expect": "100-continue"})
        assert (status, answer["error"]["code"]) == (413, "too_large")
        connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=60)
        connection.request("POST", "/v1/chat/completions", iter([body]), encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()
        wait_for(lambda: running.service.unfinished == 0)


def test_keys(engine):
    with serving(engine, api_keys=("first-key", "second-key")) as running:
        assert running.ask("What is it?").choices
        assert running.client.with_options(api_key="second-key").models.list().data
        for key in ("third-key", "first-ke", "first-key2", "first-key,second-key", "\xe9"):
            status, answer = post(running, {}, {"Authorization": f"Bearer {key}"})
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        assert post(running, {}, {"Authorization": "first-key"})[0] == 401
        status, answer = post(running, {})
        assert status == 401
        assert answer["error"]["type"] == "authentication_error"
        with pytest.raises(openai.AuthenticationError):
            running.client.with_options(api_key="x").models.list()
        connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=60)
        connection.request("GET", "/health/ready")
        assert connection.getresponse().status == 200
        connection.close()
        assert "first-key" not in repr(running.service.settings)


def test_a_full_queue_answers_429_and_recovers(engine, held):
    with serving(engine, max_queue=3, max_batch_size=2) as running, ThreadPoolExecutor(8) as pool:
        begun = [pool.submit(running.ask, "What is it?") for _ in range(2)]
        wait_for(lambda: held.batches and sum(map(len, held.batches)) >= 1)
        wait_for(lambda: running.service.unfinished == 2)
        begun += [pool.submit(running.ask, "What is it?") for _ in range(5 - len(begun))]
        wait_for(lambda: running.service.queue_length == 3 or any(asked.done() for asked in begun))
        error = refused(running, "What is it?")
        assert (error.status_code, error.code, error.type) == (429, "queue_full", "rate_limit_error")
        assert 1 <= int(error.response.headers["Retry-After"]) <= 60
        # The client waits as long as it is told to.
        patient = running.client.with_options(max_retries=5)
        messages = [{"role": "user", "content": [image_part(data_url()), {"type": "text", "text": WHERE}]}]
        retried = pool.submit(patient.chat.completions.create, model="nano", messages=messages)
        held.set()
        assert retried.result(60).choices[0].message.boxes
        answered = [asked.exception(60) is None for asked in begun]
        assert sum(answered) >= 3
        assert all(answered[:2])
        assert running.ask("What is it?").choices
        wait_for(lambda: running.service.unfinished == 0)
        assert running.service.queue_length == 0


def test_a_request_that_takes_too_long(engine, held):
    with serving(engine, request_timeout=0.6) as running:
        error = refused(running, "What is it?")
        assert (error.status_code, error.code) == (504, "timeout")
        held.set()
        wait_for(lambda: running.service.unfinished == 0)
        # A body that does not come counts as well.
        connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=60)
        connection.putrequest("POST", "/v1/chat/completions")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        assert connection.getresponse().status == 504
        connection.close()


def test_what_nobody_waits_for_is_not_begun(engine, held):
    with serving(engine, max_batch_size=1) as running, ThreadPoolExecutor(2) as pool:
        first = pool.submit(running.ask, "What is it?")
        wait_for(lambda: held.batches)
        with pytest.raises(openai.APITimeoutError):
            running.client.with_options(timeout=0.5).chat.completions.create(
                model="nano",
                messages=[{"role": "user", "content": [image_part(data_url()), {"type": "text", "text": "Gone?"}]}],
            )
        wait_for(lambda: running.service.unfinished == 1)
        held.set()
        assert first.result(60).choices
        assert running.ask("And now?").choices
        assert held.batches == [["What is it?"], ["And now?"]]


@pytest.fixture
def slow_steps(engine, monkeypatch):
    """Answers of 200 tokens with a little time between; counts them."""
    steps, generate = [], engine.model.generate

    def slowly(*args, **kwargs):
        def step(input_ids, scores, **more):
            steps.append(time.monotonic())
            time.sleep(0.01)
            return input_ids.new_zeros(len(input_ids), dtype=bool)

        kwargs["stopping_criteria"] = [*kwargs.get("stopping_criteria", []), step]
        return generate(*args, **kwargs, min_new_tokens=200)

    monkeypatch.setattr(engine.model, "generate", slowly)
    return steps


def test_a_stream_that_nobody_reads_ends(engine, slow_steps):
    with serving(engine) as running:
        stream = running.ask(CAPTION, stream=True, max_tokens=200)
        assert next(stream).choices[0].delta.role == "assistant"
        stream.close()
        wait_for(lambda: running.service.unfinished == 0)
        time.sleep(0.3)
        ended = len(slow_steps)
        assert ended < 150
        time.sleep(0.2)
        assert len(slow_steps) == ended
        assert running.service.metrics.cancelled._value.get() == 1


def test_a_stream_that_takes_too_long_says_so(engine, slow_steps):
    with serving(engine, request_timeout=1.0) as running:
        stream = running.ask(CAPTION, stream=True, max_tokens=200)
        assert next(stream).choices[0].delta.role == "assistant"
        with pytest.raises(openai.APIError, match="more than 1 seconds"):
            list(stream)
        wait_for(lambda: running.service.unfinished == 0)


def test_a_question_that_fails_takes_no_other_along(engine, held, monkeypatch, caplog):
    answer = engine.answer

    def failing(images, questions, **options):
        if any(question.prompt == "Fail!" for question in questions):
            raise RuntimeError("a secret of the server")
        return answer(images, questions, **options)

    monkeypatch.setattr(engine, "answer", failing)
    held.set()
    with serving(engine, max_wait_ms=500, max_batch_size=3) as running, ThreadPoolExecutor(3) as pool:
        good = [pool.submit(running.ask, WHERE) for _ in range(2)]
        error = refused(running, "Fail!")
        assert (error.status_code, error.type) == (500, "server_error")
        assert "secret" not in error.body["message"]
        assert [asked.result(60).choices[0].message.level for asked in good] == ["region_level"] * 2
        assert refused(running, "Fail!", stream=True).status_code == 500


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "url"]), inner),
    max_leaves=6,
)
FIELDS = [*("messages", "model", "max_tokens", "temperature", "top_p", "n", "seed", "stream", "stream_options")]
FIELDS += ["tags", "level", "user", "stop", "tools", "logit_bias", "other"]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(FIELDS), values, max_size=3), st.booleans())
def test_no_request_is_the_servers_fault(running, fields, whole):
    question = {"messages": [{"role": "user", "content": [image_part(data_url()), {"type": "text", "text": "What?"}]}]}
    status, answer = post(running, {**(question if whole else {}), **fields, "stream": False})
    assert status in (200, 400, 404), answer
    assert ("error" in answer) == (status != 200)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "must be"),
        (b"{", "must be JSON"),
        (b"[]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"\xff\xfe", "must be"),
        (b"[" * 100_000, "parsing the body"),
    ],
)
def test_bodies_that_are_no_request(running, body, message):
    status, answer = post(running, body)
    assert status == 400, answer
    assert message in answer["error"]["message"]


def test_other_places(running):
    connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=60)
    for method, path, expected in [("GET", "/v1/chat/completions", 405), ("GET", "/v1/embeddings", 404)]:
        connection.request(method, path)
        response = connection.getresponse()
        assert response.status == expected
        assert path in json.load(response)["error"]["message"]
    connection.close()
    with pytest.raises(openai.NotFoundError, match="this server's is `nano`"):
        running.client.models.retrieve("gpt-4o")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch_size", 0),
        ("max_queue", True),
        ("max_wait_ms", -1),
        ("request_timeout", 0),
        ("request_timeout", float("inf")),
        ("model_name", " "),
        ("api_keys", ("",)),
        ("api_keys", ("a\nb",)),
        ("max_prompt_tokens", 0),
    ],
)
def test_settings_that_are_none(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        ServerSettings(**{name: value})


def test_while_it_stops_a_server_answers_what_it_has_accepted_and_nothing_else(engine, held):
    with serving(engine, max_batch_size=1) as running, ThreadPoolExecutor(3) as pool:
        accepted = [pool.submit(running.ask, WHERE) for _ in range(2)]
        accepted.append(pool.submit(lambda: list(running.ask(WHERE, stream=True))))
        wait_for(lambda: running.service.unfinished == 3 and held.batches)
        running.server.handle_exit(signal.SIGTERM, None)
        wait_for(lambda: running.service.is_stopping)
        error = refused(running, "What is it?")
        assert (error.status_code, error.code) == (503, "shutting_down")
        assert int(error.response.headers["Retry-After"]) > 0
        connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=60)
        for path, status in (("/health/ready", 503), ("/health/live", 200)):
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            assert response.status == status
        connection.close()
        held.set()
        first, second, pieces = (asked.result(60) for asked in accepted)
        assert first.choices[0].message.boxes == second.choices[0].message.boxes
        assert pieces[-1].choices[0].delta.boxes == first.choices[0].message.boxes
    assert running.server.lost == 0


def test_what_takes_longer_than_stopping_may_is_answered_503_and_counted(engine, held):
    with serving(engine, shutdown_timeout=0.3) as running, ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(refused, running, WHERE)
        wait_for(lambda: held.batches)
        running.server.handle_exit(signal.SIGTERM, None)
        assert accepted.result(60).status_code == 503
        held.set()
    assert running.server.lost == 1


def test_a_stream_that_the_servers_end_cuts_off_says_so(engine, slow_steps):
    with serving(engine, shutdown_timeout=0.3) as running:
        stream = running.ask(CAPTION, stream=True, max_tokens=200)
        assert next(stream).choices[0].delta.role == "assistant"
        running.server.handle_exit(signal.SIGTERM, None)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)


def test_threads_are_left_over_by_no_server(engine):
    before = set(threading.enumerate())
    with serving(engine) as running:
        running.ask("What is it?")
        assert len(set(threading.enumerate()) - before) > 2
    wait_for(lambda: not set(threading.enumerate()) - before)
