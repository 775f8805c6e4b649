"""Asks `finetune serve` as OpenAI's Python client does, and holds what it answers against itself and against `finetune generate`.

usage: check_openai.py FINETUNE MODEL [ADAPTER]        (pip install openai)

MODEL has a chat template. Models, chats and completions, whole and in streams, a second turn with the first answer sent back as the
client has it, several choices, the client's own stream helper, what is refused and by which exception; then CLIENTS clients at the same
time, whose greedy answers must be those of each alone.
"""

import concurrent.futures
import subprocess
import sys

import openai

CLIENTS, TOKENS = 64, 24


def start(finetune, model, adapter):
    command = [finetune, "serve", "--port", "0", "--model", model]
    command += ["--adapter", f"adapted={adapter}"] if adapter else []
    served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in served.stdout:
        if line.startswith("Listening at "):
            return served, line.split()[2] + "v1"
    sys.exit("the server does not start")


def generated(finetune, model, adapter, flags, text):
    command = [finetune, "generate", "--model", model, "--max-tokens", str(TOKENS), *flags]
    command += ["--adapter", adapter] if adapter else []
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout[:-1]


def streamed(parts):
    text, usage = "", None
    for part in parts:
        usage = part.usage or usage
        if part.choices:
            choice = part.choices[0]
            text += (choice.delta.content if hasattr(choice, "delta") else choice.text) or ""
    return text, usage


def check(client, name, ask):
    question = [{"role": "user", "content": "What is the capital of France?"}]
    greedy = {"model": name, "temperature": 0, "max_tokens": TOKENS}
    with_usage = {"stream": True, "stream_options": {"include_usage": True}}

    answer = client.chat.completions.create(messages=question, **greedy)
    text = answer.choices[0].message.content
    assert text == ask(["--chat"], question[0]["content"] + "\n"), text
    parts = client.chat.completions.create(messages=question, **greedy, **with_usage)
    assert streamed(parts) == (text, answer.usage)
    with client.chat.completions.stream(messages=question, **greedy) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content == text

    turns = question + [answer.choices[0].message.model_dump(), {"role": "user", "content": "And of Italy?"}]
    second = client.chat.completions.create(messages=turns, **greedy).choices[0].message.content
    both = ask(["--chat"], question[0]["content"] + "\nAnd of Italy?\n")
    assert both == f"{text}\n{second}", (both, second)

    prompt = "The capital of France is"
    whole = client.completions.create(prompt=prompt, **greedy)
    assert whole.choices[0].text == ask(["--prompt", prompt], ""), whole
    parts = client.completions.create(prompt=prompt, **greedy, **with_usage)
    assert streamed(parts) == (whole.choices[0].text, whole.usage)

    sampled = {"model": name, "max_tokens": 8, "seed": 1, "extra_body": {"top_k": 40}}
    several = client.chat.completions.create(messages=question, n=3, **sampled).choices
    for place, choice in enumerate(several):
        alone = client.chat.completions.create(messages=question, **{**sampled, "seed": 1 + place})
        assert alone.choices[0].message.content == choice.message.content, place
    return text


def refused(client, name):
    question = [{"role": "user", "content": "Hello"}]
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for more, error, param in [
        ({"tools": [tool]}, openai.BadRequestError, "tools"),
        ({"logprobs": True}, openai.BadRequestError, "logprobs"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format"),
        ({"model": "gpt-4"}, openai.NotFoundError, None),
    ]:
        try:
            client.chat.completions.create(**{"model": name, "messages": question, **more})
        except error as found:
            assert found.param == param and found.body["message"], found
        else:
            sys.exit(f"{more} is not refused")


def main():
    finetune, model, *adapter = sys.argv[1:]
    adapter = adapter[0] if adapter else None
    served, address = start(finetune, model, adapter)
    try:
        client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
        names = [found.id for found in client.models.list()]
        for name in names:
            assert client.models.retrieve(name).id == name
            own = adapter if name == "adapted" else None
            text = check(client, name, lambda flags, text: generated(finetune, model, own, flags, text))
            refused(client, name)
            print(f"{name}: {text!r}")

        def ask(place):
            question = [{"role": "user", "content": f"Count to {place % 7 + 3}."}]
            name = names[place % len(names)]
            answer = client.chat.completions.create(model=name, messages=question, temperature=0, max_tokens=TOKENS)
            return answer.choices[0].message.content

        alone = [ask(place) for place in range(7 * len(names))]
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
            together = list(clients.map(ask, range(CLIENTS)))
        same = sum(text == alone[place % len(alone)] for place, text in enumerate(together))
        print(f"{CLIENTS} clients at the same time: {same} answers are those of one alone")
        assert same == CLIENTS
    finally:
        served.terminate()
        assert served.wait() == 0


main()
