// multipart/form-data, read as it arrives: a file is handed on chunk by chunk, never held whole.
import { storageError } from '../errors.mjs';

const HEADER_LIMIT = 16 * 1024;
const FIELD_LIMIT = 1024 * 1024;

const malformed = (message) => storageError(400, 'InvalidRequest', `The multipart body is malformed: ${message}`);

/** Read the fields before the file, then give the file: {fields, type, chunks}. Fields after it are not looked at. */
export async function readForm(chunks, contentType) {
  const boundary = /boundary=(?:"([^"]+)"|([^;\s]+))/i.exec(contentType);
  if (!boundary) throw malformed('the content type names no boundary');
  const source = new Source(chunks, `\r\n--${boundary[1] ?? boundary[2]}`);
  const fields = {};
  while (await source.nextPart()) {
    const { name, isFile, type } = await source.headers();
    if (isFile) return { fields, type, chunks: source.content() };
    fields[name] = await source.text();
  }
  throw storageError(400, 'InvalidRequest', 'The multipart body holds no file');
}

class Source {
  constructor(chunks, delimiter) {
    this.chunks = chunks[Symbol.asyncIterator]();
    this.delimiter = Buffer.from(delimiter);
    // The first delimiter has no line before it.
    this.held = Buffer.from('\r\n');
  }

  async #more() {
    const { value, done } = await this.chunks.next();
    if (done) throw malformed('it ends too early');
    this.held = Buffer.concat([this.held, value]);
  }

  async #upTo(mark, limit) {
    for (let at = this.held.indexOf(mark); ; at = this.held.indexOf(mark)) {
      if (at >= 0) {
        const found = this.held.subarray(0, at);
        this.held = this.held.subarray(at + mark.length);
        return found;
      }
      if (this.held.length > limit) throw malformed('a header or field is too long');
      await this.#more();
    }
  }

  /** Past the next delimiter; false when it was the last. */
  async nextPart() {
    await this.#upTo(this.delimiter, FIELD_LIMIT);
    while (this.held.length < 2) await this.#more();
    if (this.held.subarray(0, 2).toString() === '--') return false;
    await this.#upTo(Buffer.from('\r\n'), HEADER_LIMIT);
    return true;
  }

  async headers() {
    const lines = (await this.#upTo(Buffer.from('\r\n\r\n'), HEADER_LIMIT)).toString('utf8').split('\r\n');
    const headers = Object.fromEntries(
      lines.map((line) => [line.split(':', 1)[0].toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
    );
    const disposition = headers['content-disposition'] ?? '';
    return {
      name: /[; ]name="((?:\\"|[^"])*)"/i.exec(disposition)?.[1] ?? '',
      isFile: /[; ]filename\*?=/i.test(disposition),
      type: headers['content-type'],
    };
  }

  async text() {
    const parts = [];
    let size = 0;
    for await (const chunk of this.content()) {
      size += chunk.length;
      if (size > FIELD_LIMIT) throw malformed('a field is too long');
      parts.push(chunk);
    }
    return Buffer.concat(parts).toString('utf8');
  }

  /** Everything up to the next delimiter, which is left for nextPart(). */
  async *content() {
    for (;;) {
      const at = this.held.indexOf(this.delimiter);
      if (at >= 0) {
        if (at > 0) yield this.held.subarray(0, at);
        this.held = this.held.subarray(at);
        return;
      }
      // What may be the beginning of a delimiter is kept until more is known.
      const safe = this.held.length - this.delimiter.length;
      if (safe > 0) {
        yield this.held.subarray(0, safe);
        this.held = this.held.subarray(safe);
      }
      await this.#more();
    }
  }
}
