// Names of buckets and objects. On disk they mean nothing (see blobs.mjs); here they may mean only one place.
import { storageError } from '../errors.mjs';

const KEY = /^[\w/!\-.*'() &$@=;:+,?]+$/;
const BUCKET = /^[\w!\-.*'() &$@=;:+,?]{1,100}$/;
const LONGEST_KEY = 1024;

export function checkedKey(name) {
  const steps = typeof name === 'string' ? name.split('/') : [''];
  const wrong = !KEY.test(name) || name.length > LONGEST_KEY || steps.some((step) => ['', '.', '..'].includes(step));
  if (wrong) throw storageError(400, 'InvalidKey', `Invalid key: ${String(name).slice(0, 200)}`);
  return name;
}

export function checkedBucket(name) {
  if (typeof name === 'string' && BUCKET.test(name) && name.trim() === name && name !== '.' && name !== '..')
    return name;
  throw storageError(400, 'InvalidBucketName', `Bucket name invalid: ${String(name).slice(0, 200)}`);
}

/** The steps of a request's path as it was sent: a URL parser would already have followed the `..` in it. */
export function stepsOf(request) {
  const path = request.url.split(/[?#]/, 1)[0];
  if (!path.startsWith('/storage/v1/')) throw storageError(400, 'InvalidKey', `Invalid path: ${path.slice(0, 200)}`);
  const steps = path.slice('/storage/v1/'.length).split('/').map(decodeURIComponent);
  if (steps.at(-1) === '' && steps.length <= 2) steps.pop();
  return steps;
}
