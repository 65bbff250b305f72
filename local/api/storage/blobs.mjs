// The bytes of the objects: one file per version, named by a random id. No name a client chose ever reaches the disk.
import { createHash, randomUUID } from 'node:crypto';
import { constants, createReadStream } from 'node:fs';
import { copyFile, mkdir, open, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { storageError } from '../errors.mjs';

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

export class Blobs {
  constructor(directory) {
    this.directory = directory;
  }

  /** Keep the chunks under a new version, as long as they are no more than `limit` bytes. */
  async write(chunks, limit) {
    const version = randomUUID();
    const file = await this.#made(version);
    const digest = createHash('md5');
    let size = 0;
    const handle = await open(file, 'wx', 0o600);
    try {
      for await (const chunk of chunks) {
        size += chunk.length;
        if (size > limit) throw tooLarge();
        digest.update(chunk);
        await handle.write(chunk);
      }
      await handle.sync();
    } catch (error) {
      await rm(file, { force: true });
      throw error;
    } finally {
      await handle.close();
    }
    return { version, size, eTag: `"${digest.digest('hex')}"` };
  }

  async copy(version) {
    const copied = randomUUID();
    await copyFile(this.#file(version), await this.#made(copied), constants.COPYFILE_FICLONE);
    return copied;
  }

  async size(version) {
    return (await stat(this.#file(version))).size;
  }

  read(version, range) {
    return createReadStream(this.#file(version), range);
  }

  async remove(versions) {
    await Promise.all(versions.filter((version) => UUID.test(version)).map((version) => rm(this.#file(version), { force: true })));
  }

  /** A row may have been written by other means than this service; its version still leads nowhere else. */
  #file(version) {
    if (!UUID.test(version)) throw new Error(`'${version}' is no version of a file`);
    return path.join(this.directory, version.slice(0, 2), version);
  }

  async #made(version) {
    const file = this.#file(version);
    await mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
    return file;
  }
}

export const tooLarge = () => storageError(413, 'Payload too large', 'The object exceeded the maximum allowed size');
