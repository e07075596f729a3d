// node build.mjs SOURCE WIT OUTPUT
import { readFile, writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const [source, wit, output] = process.argv.slice(2);
const { component } = await componentize(await readFile(source, 'utf8'), {
  witPath: wit,
  worldName: 'wasi:http/proxy',
});
await writeFile(output, component);
