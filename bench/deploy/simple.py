"""The simple way: take a message, deploy an ERC-20 of its own for it, wait for the receipt, acknowledge.

anvil signs, which spares it the signing; it asks for nothing it could do without. It keeps no ledger: when it dies between
sending and acknowledging, a second token is deployed.
"""

import json
import pathlib
import time

from chain import DEPLOYER, now_ms
from ours import QUEUE, message, push

ARTIFACT = pathlib.Path(__file__).resolve().parents[2] / "contracts/artifacts/direct.json"
# web3.py asks for a receipt every 0.1 s by default; this one is more eager.
POLL_S = 0.01


def word(value):
    return value.to_bytes(32, "big")


def text(value):
    data = value.encode()
    return word(len(data)) + data + bytes(-len(data) % 32)


def creation(code, symbol):
    """The code with its arguments: (string name, string symbol, address owner)."""
    name, symbol = text(f"Hokusai {symbol}"), text(symbol)
    head = word(96) + word(96 + len(name)) + word(int(DEPLOYER, 16))
    return code + (head + name + symbol).hex()


def take(redis):
    """One message out of the list, as BRPOPLPUSH would; its reply is longer than a line."""
    import socket
    with socket.create_connection(("127.0.0.1", redis.port), timeout=30) as connection:
        connection.sendall(f"RPOPLPUSH {QUEUE} {QUEUE}:processing\r\n".encode())
        reply = connection.makefile("rb")
        length = int(reply.readline()[1:])
        return reply.read(length) if length >= 0 else None


def run(chain, redis, waiting, at_most_s):
    code = json.loads(ARTIFACT.read_text())["DirectToken"]
    push(redis, QUEUE, [message(number) for number in range(waiting)])
    chain.begin()
    time.sleep(1.2)
    calls, began, latency_ms = chain.calls(), now_ms(), []
    while (entry := take(redis)) is not None and now_ms() - began < at_most_s * 1e3:
        symbol = json.loads(entry)["payload"]["token_symbol"]
        sent = chain.rpc("eth_sendTransaction", {"from": DEPLOYER, "data": creation(code, symbol), "gas": hex(800_000)})
        while (receipt := chain.rpc("eth_getTransactionReceipt", sent)) is None:
            time.sleep(POLL_S)
        if receipt["status"] != "0x1":
            raise SystemExit(f"the simple way's deployment failed: {receipt}")
        redis.ask("LPOP", f"{QUEUE}:processing")
        latency_ms.append(now_ms() - began)
    tokens = len(latency_ms)
    return {"tokens": tokens, "seconds": latency_ms[-1] / 1e3, "latency_ms": latency_ms, "calls": chain.calls() - calls,
            "cpu_s": None, "missing": 0, "repeated": 0, **chain.used()}
