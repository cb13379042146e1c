// Checks objects of prometheus-operator, a JSON array on standard input, against the operator's own types:
// the compiler rejects unknown fields, and the schemas reject invalid values. The argument is the directory
// in which npm has installed both. Prints one line per error to standard error.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const directory = resolve(process.argv[2]);
const models = "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
const objects = JSON.parse(readFileSync(0, "utf8"));
const mistakes = [];

// A program of typed literals. It is compiled, but not written to disk.
const program = join(directory, "objects.mts");
const source = objects
  .map(
    (object, index) =>
      `import type { I${object.kind} as T${index} } from "${models}/${object.kind}";\n` +
      `export const o${index}: T${index} = ${JSON.stringify(object, null, 1)};\n`,
  )
  .join("");
const ts = createRequire(program)("typescript");
const options = {
  module: ts.ModuleKind.NodeNext,
  target: ts.ScriptTarget.ES2022,
  strict: true,
  noEmit: true,
  skipLibCheck: true,
  types: [],
};
const host = ts.createCompilerHost(options);
const { fileExists, readFile, getSourceFile } = host;
host.fileExists = (file) => file === program || fileExists(file);
host.readFile = (file) => (file === program ? source : readFile(file));
host.getSourceFile = (file, version) =>
  file === program ? ts.createSourceFile(file, source, version) : getSourceFile(file, version);
for (const found of ts.getPreEmitDiagnostics(ts.createProgram([program], options, host))) {
  const { line } = found.file ? found.file.getLineAndCharacterOfPosition(found.start) : { line: -1 };
  const code = source.split("\n")[line] ?? "";
  mistakes.push(`${code.trim()}: ${ts.flattenDiagnosticMessageText(found.messageText, " ")}`);
}

for (const object of objects) {
  const file = join(directory, "node_modules", models, `${object.kind}.js`);
  const model = await import(pathToFileURL(file).href);
  try {
    new model[object.kind](object).validate();
  } catch (error) {
    mistakes.push(`${object.kind} ${object.metadata.name}: ${error.message}`);
  }
}

for (const mistake of mistakes) {
  console.error(mistake);
}
process.exitCode = mistakes.length > 0 ? 1 : 0;
