"""anvil, what it was asked, and what its blocks hold."""

import http.client
import json
import pathlib
import time

from services import Process, eventually, free_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
# anvil's first accounts, which it signs for; the keys are public.
DEPLOYER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
DEPLOYER_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
OWNER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
CONTROLLER = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"


def anvil():
    """The program itself, not npm's script around it."""
    found = sorted((ROOT / "tools/node_modules/@foundry-rs").glob("anvil-*/bin/anvil"))
    if not found:
        raise SystemExit("anvil is not installed: run scripts/setup (npm ci --prefix tools)")
    return found[0]


class Chain(Process):
    """`automine`: a block for each transaction, at once. `1 s blocks`: a block each second, whatever waits."""

    def __init__(self, directory, name, block_gas):
        self.port, self.block_gas = free_port(), block_gas
        self.automine = name == "automine"
        command = [anvil(), "--host", "127.0.0.1", "--port", self.port, "--gas-limit", block_gas]
        # Without blocks of their own the registry would wait for a second too; they begin when it is there.
        super().__init__("anvil", command, f"{directory}/anvil.log")
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def __enter__(self):
        eventually("anvil answers", lambda: self.check() or self.try_rpc("eth_chainId"))
        return self

    def try_rpc(self, method, *params):
        try:
            return self.rpc(method, *params)
        except OSError:
            self.connection.close()
            return None

    def rpc(self, method, *params):
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        self.connection.request("POST", "/", body, {"Content-Type": "application/json"})
        answer = json.loads(self.connection.getresponse().read())
        if "error" in answer:
            raise SystemExit(f"{method}: {answer['error']}")
        return answer["result"]

    def begin(self):
        """From now on blocks come as they are to come."""
        if not self.automine:
            self.rpc("evm_setAutomine", False)
            self.rpc("evm_setIntervalMining", 1)
        self.first_block = int(self.rpc("eth_blockNumber"), 16) + 1

    def calls(self):
        """How many calls anvil has logged so far: every request's method on a line of its own."""
        with open(self.log, errors="replace") as lines:
            return sum(1 for line in lines if line.startswith(("eth_", "net_", "web3_")))

    def used(self):
        """Gas and number of the blocks since `begin` from the first that holds a transaction to the last one."""
        last = int(self.rpc("eth_blockNumber"), 16)
        blocks = [self.rpc("eth_getBlockByNumber", hex(number), False) for number in range(self.first_block, last + 1)]
        full = [number for number, block in enumerate(blocks) if block["transactions"]]
        gas = sum(int(block["gasUsed"], 16) for block in blocks)
        return {"gas": gas, "blocks": full[-1] - full[0] + 1 if full else 0, "transactions": sum(len(block["transactions"]) for block in blocks)}

    def logs(self, address):
        return self.rpc("eth_getLogs", {"address": address, "fromBlock": hex(self.first_block), "toBlock": "latest"})


def now_ms():
    return time.time() * 1000
