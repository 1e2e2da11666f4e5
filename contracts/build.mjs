// Compiles the contracts with the pinned compiler and writes the committed artifacts.
//
//   node build.mjs           writes artifacts/
//   node build.mjs --check   fails if artifacts/ is not what the sources give
//
// artifacts/<Contract>.json holds the ABI, the bytecode and what it was compiled with;
// artifacts/direct.json holds the bytecode of the tokens that the gas table compares with;
// artifacts/standard-input.json is the compiler's whole input, which block explorers take for verification.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import solc from "solc";

const here = dirname(fileURLToPath(import.meta.url));
const contracts = ["ModelTokenRegistry", "ModelToken"];
const gasReferences = "gas/Direct.sol";

const settings = {
  viaIR: true,
  optimizer: { enabled: true, runs: 200 },
  // Transient storage and MCOPY need Cancun; nothing needs a later fork.
  evmVersion: "cancun",
  // Without metadata the bytecode depends on nothing but the code.
  metadata: { bytecodeHash: "none", appendCBOR: false },
  outputSelection: { "*": { "": [], "*": [] } },
};

const read = (path) => readFileSync(path, "utf8");

// The entry points and every file that they import, by the names under which the compiler knows them.
function collectSources(entryPoints) {
  const sources = {};
  const add = (name) => {
    if (name in sources) return;
    const content = read(join(here, /^(src|gas)\//.test(name) ? name : join("node_modules", name)));
    sources[name] = { content };
    for (const [, path] of content.matchAll(/^\s*import\s[^;]*?"([^"]+)";/gm)) {
      add(resolve(name, path));
    }
  };
  entryPoints.forEach(add);
  return Object.fromEntries(Object.entries(sources).sort(([a], [b]) => (a < b ? -1 : 1)));
}

function resolve(importer, path) {
  return path.startsWith(".") ? join(dirname(importer), path) : path;
}

function compile(input) {
  const selection = { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } };
  const request = { ...input, settings: { ...settings, outputSelection: selection } };
  const output = JSON.parse(solc.compile(JSON.stringify(request)));
  // Warnings about the libraries' sources are the libraries' affair; about ours there shall be none.
  const problems = (output.errors ?? []).filter(
    (problem) => problem.severity === "error" || /^(src|gas)\//.test(problem.sourceLocation?.file),
  );
  problems.forEach((problem) => process.stderr.write(problem.formattedMessage));
  if (problems.length > 0) throw new Error("the contracts do not compile without complaint");
  return output;
}

function inputOf(entryPoints) {
  return { language: "Solidity", sources: collectSources(entryPoints), settings };
}

// Each contract's bytecode, by its name.
function directTokens() {
  const compiled = Object.entries(compile(inputOf([gasReferences])).contracts[gasReferences]);
  return Object.fromEntries(compiled.map(([name, { evm }]) => [name, `0x${evm.bytecode.object}`]));
}

function artifact(output, contract) {
  const { abi, evm } = output.contracts[`src/${contract}.sol`][contract];
  return {
    contract,
    compiler: solc.version(),
    settings: { ...settings, outputSelection: undefined },
    abi,
    bytecode: `0x${evm.bytecode.object}`,
    deployedBytecode: `0x${evm.deployedBytecode.object}`,
  };
}

function build() {
  const input = inputOf(contracts.map((contract) => `src/${contract}.sol`));
  const output = compile(input);
  const files = { "standard-input.json": input, "direct.json": directTokens() };
  for (const contract of contracts) files[`${contract}.json`] = artifact(output, contract);
  return Object.entries(files).map(([name, value]) => [
    join(here, "artifacts", name),
    JSON.stringify(value, null, 2) + "\n",
  ]);
}

const files = build();
if (process.argv.includes("--check")) {
  const stale = files.filter(([path, text]) => read(path) !== text).map(([path]) => path);
  stale.forEach((path) => console.error(`${path} is not what the sources give: run "npm run build"`));
  process.exitCode = stale.length === 0 ? 0 : 1;
} else {
  mkdirSync(join(here, "artifacts"), { recursive: true });
  files.forEach(([path, text]) => writeFileSync(path, text));
}
