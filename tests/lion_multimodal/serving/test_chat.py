"""What a server answers to OpenAI's own client is what the pipeline answers."""

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from tests.lion_multimodal.serving.conftest import CAPTION, QUESTIONS, SCENE, WHERE, data_url, image_part, serving


@pytest.fixture(scope="module")
def expected(pipe):
    return {prompt: pipe(str(SCENE), prompt=prompt)[0] for prompt in QUESTIONS}


def counted(running, name, **labels):
    """A metric's value."""
    return running.service.metrics.registry.get_sample_value(name, labels) or 0


def test_mixed_levels_at_once_are_answered_as_by_the_pipeline(engine, expected):
    with serving(engine, max_wait_ms=500, max_batch_size=6) as running, ThreadPoolExecutor(18) as pool:
        answers = list(pool.map(running.ask, QUESTIONS * 3))
        for prompt, answer in zip(QUESTIONS * 3, answers):
            (choice,) = answer.choices
            assert choice.message.content == expected[prompt]["generated_text"]
            assert choice.message.boxes == expected[prompt].get("boxes", [])
            assert choice.message.labels == expected[prompt].get("labels", [])
            assert choice.message.level == ("region_level" if "<image>" in prompt else "image_level")
            assert choice.finish_reason == "stop"
            assert answer.model == "nano"
            assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 20
        batches = counted(running, "lion_batch_size_count")
        assert counted(running, "lion_batch_size_sum") == 18
        assert batches <= 6  # three, if all threads were as fast as that
        assert counted(running, "lion_mixed_batches_total") >= 1
        # One image, so one encoding for all.
        assert counted(running, "lion_images_total", source="encoded") == 1
        assert counted(running, "lion_images_total", source="shared") == 17


def test_streams_of_mixed_levels_are_answered_together(engine, expected):
    def stream(prompt):
        usage = {"include_usage": True}
        return list(running.ask(prompt, stream=True, stream_options=usage))

    with serving(engine, max_wait_ms=500, max_batch_size=6) as running, ThreadPoolExecutor(6) as pool:
        for prompt, chunks in zip(QUESTIONS, pool.map(stream, QUESTIONS)):
            assert len({chunk.id for chunk in chunks}) == 1
            *pieces, last, usage = chunks
            assert pieces[0].choices[0].delta.role == "assistant"
            words = [chunk.choices[0].delta.content for chunk in pieces]
            assert "".join(words) == expected[prompt]["generated_text"]
            assert all(chunk.choices[0].finish_reason is None for chunk in pieces)
            assert last.choices[0].finish_reason == "stop"
            assert last.choices[0].delta.boxes == expected[prompt].get("boxes", [])
            assert last.choices[0].delta.level in ("image_level", "region_level")
            assert usage.choices == []
            assert usage.usage.completion_tokens > 0
            if prompt == CAPTION:
                assert len(words) > 10
        assert counted(running, "lion_batch_size_sum") == 6
        assert counted(running, "lion_batch_size_count") <= 2
        assert counted(running, "lion_cancelled_total") == 0


def test_a_stream_without_usage_ends_with_the_boxes(running):
    *_, last = running.ask(WHERE, stream=True)
    assert last.choices[0].delta.boxes
    assert last.usage is None


def test_answers_that_are_cut_say_so(running, pipe):
    answer = running.ask(CAPTION, max_completion_tokens=4)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 4
    assert answer.choices[0].message.content == pipe(str(SCENE), prompt=CAPTION, max_new_tokens=4)[0]["generated_text"]
    assert running.ask(CAPTION, max_tokens=4).choices[0].message.content == answer.choices[0].message.content
    *_, last = running.ask(CAPTION, max_tokens=4, stream=True)
    assert last.choices[0].finish_reason == "length"


def test_tags_and_level_are_the_askers(running, pipe):
    message = running.ask(CAPTION).choices[0].message
    assert message.tags == ", ".join(pipe.tagger([Image.open(SCENE)])[0])
    assert running.ask(CAPTION, tags=["red cup", "dog"]).choices[0].message.tags == "red cup, dog"
    assert running.ask(CAPTION, tags="dog").choices[0].message.tags == "dog"
    bare = running.ask(CAPTION, tags=False, level="region_level").choices[0].message
    assert (bare.tags, bare.level) == (None, "region_level")
    alone = pipe(str(SCENE), prompt=CAPTION, tags=False, level="region_level")[0]
    assert bare.content == alone["generated_text"]
    assert bare.boxes == alone.get("boxes", [])


def test_sampling_is_repeatable_with_a_seed_and_asked_for(running):
    hot = {"temperature": 2.0, "max_tokens": 12}
    first, second = (running.ask(CAPTION, seed=7, **hot).choices[0].message.content for _ in range(2))
    assert first == second
    others = {running.ask(CAPTION, seed=seed, **hot).choices[0].message.content for seed in range(5)}
    assert len(others) > 1
    cold = running.ask(CAPTION, temperature=0).choices[0].message.content
    assert cold == running.ask(CAPTION).choices[0].message.content
    assert running.ask(CAPTION, top_p=0.001).choices[0].message.content == cold  # one token alone has that much


def test_the_last_message_is_asked_about_the_images_of_the_conversation(running, expected):
    messages = [
        {"role": "system", "content": "You are helpful."},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image_part(data_url())]},
        {"role": "assistant", "content": "an image"},
        {"role": "user", "content": WHERE},
    ]
    answer = running.client.chat.completions.create(model="nano", messages=messages, user="somebody", store=False)
    assert answer.choices[0].message.content == expected[WHERE]["generated_text"]


def test_an_image_is_fetched_and_its_encoding_kept(engine, images, expected):
    url = f"http://127.0.0.1:{images}/to/http://localhost:{images}/scene.png"
    with serving(engine, allow_private_addresses=True) as running:
        for image in (url, data_url(), url):
            message = running.ask(WHERE, image).choices[0].message
            assert message.boxes == expected[WHERE]["boxes"]
            assert message.tags
        running.ask(WHERE, tags=False)
        assert counted(running, "lion_images_total", source="encoded") == 1
        assert counted(running, "lion_image_cache_bytes") > 0
    with serving(engine, image_cache_bytes=0) as running:
        assert running.ask(WHERE).choices[0].message.boxes == running.ask(WHERE).choices[0].message.boxes
        assert counted(running, "lion_images_total", source="encoded") == 2


def test_models_and_health(running):
    (model,) = running.client.models.list().data
    assert model.id == "nano"
    assert running.client.models.retrieve("nano").owned_by == "lion"
    for path in ("/health", "/health/ready", "/health/live"):
        with urllib.request.urlopen(running.url + path) as response:
            assert json.load(response)["status"] == "ok"


def test_metrics_are_prometheus(running):
    for _ in range(2):  # the second is begun when the first is counted
        running.ask(WHERE)
    with urllib.request.urlopen(running.url + "/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        text = response.read().decode()
    for name in (
        'lion_requests_total{endpoint="/v1/chat/completions",status="200"}',
        'lion_request_seconds_bucket{endpoint="/v1/chat/completions",le="0.005"}',
        'lion_answers_total{finish_reason="stop",level="region_level"}',
        "lion_queue_length 0.0",
        "lion_batch_seconds_count",
        "lion_answer_tokens_total",
        "lion_queue_seconds_sum",
        "process_resident_memory_bytes",
    ):
        assert name in text


def test_the_interface_describes_itself(running):
    with urllib.request.urlopen(running.url + "/openapi.json") as response:
        schema = json.load(response)
    properties = schema["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "tags", "level", "stream", "max_completion_tokens"} <= set(properties)
