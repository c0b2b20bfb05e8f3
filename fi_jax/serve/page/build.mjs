// Builds ../static/page.js; its first line tells the digest of the sources, which a test compares.
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { build } from 'esbuild';

const digest = createHash('sha256');
for (const name of readdirSync('.').filter((name) => name.endsWith('.ts')).sort()) {
  digest.update(readFileSync(name));
}
await build({
  entryPoints: ['main.ts'],
  outfile: process.argv[2] ?? '../static/page.js',
  bundle: true,
  format: 'iife',
  target: 'es2022',
  charset: 'utf8',
  banner: { js: `// Built by make page from sources of sha256 ${digest.digest('hex')}` },
});
