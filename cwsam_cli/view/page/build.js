// Builds the script of the page of `cwsam view`, and the licences of its parts. The rest of the page is in ../assets.

import {createHash} from 'node:crypto';
import {readFileSync, readdirSync, writeFileSync} from 'node:fs';
import {build} from 'esbuild';

const ASSETS = '../assets';

const result = await build({
  entryPoints: ['src/main.js'],
  bundle: true,
  format: 'esm',
  target: 'es2022',
  minify: true,
  legalComments: 'none',
  metafile: true,
  pure: ['console.debug', 'console.info'],
  external: ['@bokuweb/zstd-wasm'], // for compressed FlatGeobuf, which GDAL does not write
  write: false,
});

const packages = [...new Set(Object.keys(result.metafile.inputs).map(packageOf).filter(Boolean))].sort();
const described = packages.map((name) => ({name, ...JSON.parse(readFileSync(`node_modules/${name}/package.json`))}));
const versions = described.map(({name, version}) => `${name} ${version}`).join(', ');
const banner = `/*! Built by \`make viewer\` from sources with SHA-256 ${hashOfSources()}. Contains ${versions}. See licenses.txt. */\n`;
writeFileSync(`${ASSETS}/viewer.js`, banner + result.outputFiles[0].text);
writeFileSync(`${ASSETS}/licenses.txt`, described.map(licenseText).join('\n\n'));
console.log(`viewer.js: ${Math.round(result.outputFiles[0].text.length / 1000)} kB, with ${versions}`);

/** Name of the package that a module belongs to, undefined for our own. */
function packageOf(path) {
  return /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1];
}

/** Hash of all that decides what is built; tests/unit/view/test_assets.py computes the same. */
function hashOfSources() {
  const names = ['package-lock.json', 'build.js', ...readdirSync('src').sort().map((name) => `src/${name}`)];
  const hash = createHash('sha256');
  for (const name of names) {
    hash.update(readFileSync(name));
  }
  return hash.digest('hex');
}

/** Licence of a package. A package under Apache-2.0 without a text of its own gets this repository's copy of it. */
function licenseText({name, version, license, main}) {
  const folder = `node_modules/${name}`;
  const files = readdirSync(folder).filter((file) => /^(licen[cs]e|openmap)(\.\w+)?$/i.test(file));
  const texts = files.map((file) => readFileSync(`${folder}/${file}`, 'utf8').trim());
  if (!texts.length && license === 'Apache-2.0') {
    const copyright = /Copyright .*/.exec(readFileSync(`${folder}/${main}`, 'utf8'))[0];
    texts.push(copyright, readFileSync('../../../LICENSE', 'utf8').trim());
  }
  if (!texts.length) {
    throw new Error(`${name} has no licence text`);
  }
  return [`${name} ${version} (${license})`, '='.repeat(60), ...texts, ''].join('\n');
}
