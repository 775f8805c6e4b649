"""Measures how fast `finetune serve` answers: one client beside `finetune generate`, and several at the same time.

usage: measure_serve.py FINETUNE MODEL [FLAGS]

MODEL has a chat template; FLAGS go to both commands. Prints seconds to the first token and milliseconds for each one behind it, of
both, which answer the same new question, and of the server when it is asked again; without FLAGS all three must write the same. Then
the tokens a second that 1, 2, 4 and 8 clients get together, their prompts included, each with a greedy answer to a question of its
own that nobody has asked before, and how many of these answers come again when each is asked for alone.
"""

import http.client
import json
import os
import select
import subprocess
import sys
import threading
import time

QUESTION = "Write a long story about a lighthouse keeper who finds a map in a bottle."
THINGS = (
    "candle mirror compass key ring letter coin tooth feather watch seed shoe pearl photograph flute stone leaf ticket"
).split()
TOKENS, LOADED, TURNS = 96, 4, 3


def generate(finetune, model, flags, question):
    """One answer of a chat, asked for once the model is there: seconds to the first text and to the last, and all of it."""
    command = [finetune, "generate", "--chat", "--model", model, "--max-tokens", str(TOKENS), *flags]
    chat = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    time.sleep(LOADED)
    asked, times, text = time.time(), [], b""
    chat.stdin.write((question + "\n").encode())
    chat.stdin.flush()
    # Nothing for a second is the end.
    while not times or select.select([chat.stdout], [], [], 1.0)[0]:
        piece = os.read(chat.stdout.fileno(), 1 << 16)
        times.append(time.time() - asked)
        text += piece
    chat.stdin.close()
    chat.wait()
    return times[0], times[-1], text.decode()[:-1]


class Served:
    def __init__(self, finetune, model, flags):
        command = [finetune, "serve", "--port", "0", "--model", model, *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines = iter(self.process.stdout.readline, "")
        address = next(line for line in lines if line.startswith("Listening at ")).split()[2]
        self.address = address.removeprefix("http://").rstrip("/")
        connection = http.client.HTTPConnection(self.address)
        connection.request("GET", "/v1/models")
        self.model = json.load(connection.getresponse())["data"][0]["id"]

    def ask(self, question):
        body = {"model": self.model, "messages": [{"role": "user", "content": question}], "temperature": 0,
                "max_tokens": TOKENS, "stream": True, "stream_options": {"include_usage": True}}
        connection = http.client.HTTPConnection(self.address)
        asked, times, text, usage = time.time(), [], "", None
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        for line in connection.getresponse():
            if not line.startswith(b"data: {"):
                continue
            part = json.loads(line[6:])
            usage = part["usage"] or usage
            if part["choices"] and part["choices"][0]["delta"].get("content"):
                times.append(time.time() - asked)
                text += part["choices"][0]["delta"]["content"]
        return times[0], times[-1], text, usage["completion_tokens"]


def told(name, first, last):
    print(f"{name:8} first token {first:.3f} s, then {(last - first) / (TOKENS - 1) * 1e3:.1f} ms each")


def main():
    finetune, model, *flags = sys.argv[1:]
    served = Served(finetune, model, flags)
    try:
        things = iter(THINGS)
        ask_of = lambda thing: QUESTION.replace("map", thing)
        served.ask(QUESTION)
        for _ in range(TURNS):
            question = ask_of(next(things))
            *times, text = generate(finetune, model, flags, question)
            told("generate", *times)
            texts = {text}
            for name in "serve", "again":
                *times, text, _ = served.ask(question)
                told(name, *times)
                texts.add(text)
            assert len(texts) == 1 or flags, texts
        for clients in 1, 2, 4, 8:
            questions = [ask_of(next(things)) for _ in range(clients)]
            answers = {}
            ask = lambda question: answers.update({question: served.ask(question)})
            threads = [threading.Thread(target=ask, args=(question,)) for question in questions]
            begun = time.time()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rate = sum(tokens for *_, tokens in answers.values()) / (time.time() - begun)
            same = sum(served.ask(question)[2] == answer[2] for question, answer in answers.items())
            print(f"{clients} clients: {rate:.1f} tokens a second, {same} of the answers the same alone")
    finally:
        served.process.terminate()
        served.process.wait()


main()
