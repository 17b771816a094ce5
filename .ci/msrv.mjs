// Fails if a crate that users of this one compile states a newer Rust than this crate does.
// Usage: node .ci/msrv.mjs 1.88

import { execFileSync } from 'node:child_process';

const run = (program, ...args) => execFileSync(program, args, { encoding: 'utf8', maxBuffer: 1 << 28 });
const parse = (version) => version.split('.').map(Number);
const newer = (a, b) => a[0] - b[0] || (a[1] ?? 0) - (b[1] ?? 0) || (a[2] ?? 0) - (b[2] ?? 0);

const oldest = parse(process.argv[2]);
const host = /^host: (.*)$/m.exec(run('rustc', '-vV'))[1];
const metadata = JSON.parse(
  run('cargo', 'metadata', '--locked', '--format-version=1', '--all-features', `--filter-platform=${host}`),
);

const nodes = new Map(metadata.resolve.nodes.map((node) => [node.id, node]));
const used = new Set();
const visit = (id) => {
  if (used.has(id)) return;
  used.add(id);
  for (const { pkg, dep_kinds: kinds } of nodes.get(id).deps) {
    if (kinds.some(({ kind }) => kind !== 'dev')) visit(pkg);
  }
};
visit(metadata.resolve.root);

const tooNew = metadata.packages
  .filter(({ id, rust_version: version }) => used.has(id) && version && newer(parse(version), oldest) > 0)
  .map(({ name, version, rust_version: rust }) => `${name} ${version} needs Rust ${rust}`);
for (const line of tooNew) console.error(line);
process.exit(tooNew.length ? 1 : 0);
