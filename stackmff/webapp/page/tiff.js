// Whether a TIFF holds several pages, so that it is a stack of its own.
// Source: TIFF 6.0, section 2; BigTIFF, https://www.awaresystems.be/imaging/tiff/bigtiff.html.

const SUBFILE = 254; // tag: bit 0 is set for thumbnails
const MOST_DIRECTORIES = 8; // that are looked at

/** @param {File} file @returns {Promise<boolean>} */
export async function hasPages(file) {
  try {
    return await count(file) > 1;
  } catch {
    return false; // it is damaged, which the server tells
  }
}

async function count(file) {
  const part = async (at, size) => new DataView(await file.slice(at, at + size).arrayBuffer());
  const head = await part(0, 16);
  const little = head.getUint16(0) === 0x4949;
  const big = head.getUint16(2, little) === 43;
  const [countSize, entrySize, pointer] = big ? [8, 20, 8] : [2, 12, 4];
  const number = (view, at, size) => (size === 2 ? view.getUint16(at, little)
    : size === 4 ? view.getUint32(at, little) : Number(view.getBigUint64(at, little)));
  let at = number(head, big ? 8 : 4, pointer);
  let pages = 0;
  for (let k = 0; at && k < MOST_DIRECTORIES && pages < 2; k++) {
    const entries = number(await part(at, countSize), 0, countSize);
    const view = await part(at + countSize, entries * entrySize + pointer);
    let thumbnail = false;
    for (let entry = 0; entry < entries; entry++)
      if (view.getUint16(entry * entrySize, little) === SUBFILE)
        thumbnail = Boolean(view.getUint32(entry * entrySize + (big ? 12 : 8), little) & 1);
    pages += thumbnail ? 0 : 1;
    at = number(view, entries * entrySize, pointer);
  }
  return pages;
}
