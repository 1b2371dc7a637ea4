// Saving: pictures, tracings and a table, all made here.

const COLUMNS = ["name", "file", "verdict", "reasons", "energy", "novelty", "nearest", "explained_by", "way", "how",
  "softness", "line_contrast", "background", "ghost", "symmetry", "axial_share", "gain"];

/** A cell by RFC 4180. Texts that a spreadsheet would run as a formula get an apostrophe in front. */
function cell(value) {
  if (value === null || value === undefined) return "";
  if (known(value)) return String(value);
  const text = /^\s*[=+\-@\uFF1D\uFF0B\uFF0D\uFF20]|^[\t\r\n]/.test(value) ? `'${value}` : value;
  return /[",;\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function table(rows) {
  const lines = rows.map((design) => {
    const explained = design.parts.map(([name, share]) => (known(share) ? `${name} ${share}` : name)).join("; ");
    const all = { ...design.definition, ...design, reasons: design.reasons.join("; "), explained_by: explained };
    return COLUMNS.map((column) => cell(all[column])).join(",");
  });
  return "\uFEFF" + [COLUMNS.join(","), ...lines, ""].join("\r\n"); // spreadsheets take the mark for UTF-8
}

/** A file name for a design: its rank and its name, in letters that every system takes. */
function fileName(design, ending) {
  const name = design.name.normalize("NFKD").replace(/[^A-Za-z0-9]+/g, "_").replace(/^_+|_+$/g, "").slice(0, 60);
  return `${String(design.rank + 1).padStart(3, "0")}${name && "_"}${name}.${ending}`;
}

const bytesOf = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
const utf8 = (text) => new TextEncoder().encode(text);

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC[(crc ^ byte) & 255];
  return ~crc >>> 0;
}

/** An uncompressed ZIP archive of [name, bytes] pairs, by the APPNOTE; all dated 1980, the format's first year. */
function zip(files) {
  const body = [], directory = [];
  let at = 0, directorySize = 0;
  for (const [path, bytes] of files) {
    const name = utf8(path);
    const common = new DataView(new ArrayBuffer(26)); // the fields that both headers hold
    [20, 0x0800, 0, 0, 0x21].forEach((value, k) => common.setUint16(2 * k, value, true)); // 0x0800: names in UTF-8
    [crc32(bytes), bytes.length, bytes.length].forEach((value, k) => common.setUint32(10 + 4 * k, value, true));
    common.setUint16(22, name.length, true);
    const place = new DataView(new ArrayBuffer(14)); // comment, disk and attributes: none; then where the file begins
    place.setUint32(10, at, true);
    body.push(utf8("PK\x03\x04"), common, name, bytes);
    directory.push(utf8("PK\x01\x02"), Uint8Array.of(20, 0), common, place, name);
    at += 30 + name.length + bytes.length;
    directorySize += 46 + name.length;
  }
  const end = new DataView(new ArrayBuffer(18));
  [0, 0, files.length, files.length].forEach((value, k) => end.setUint16(2 * k, value, true));
  end.setUint32(8, directorySize, true);
  end.setUint32(12, at, true);
  return new Blob([...body, ...directory, utf8("PK\x05\x06"), end], { type: "application/zip" });
}

function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

const tableBlob = (rows) => new Blob([table(rows)], { type: "text/csv;charset=utf-8" });
const savePng = (design) => save(new Blob([bytesOf(design.image)], { type: "image/png" }), fileName(design, "png"));
const saveSvg = (design) => save(new Blob([design.svg], { type: "image/svg+xml" }), fileName(design, "svg"));
const saveCsv = (rows) => save(tableBlob(rows), "bridges.csv");

function saveZip(rows) {
  const files = [["bridges.csv", utf8(table(rows))]];
  for (const design of rows) {
    files.push([fileName(design, "png"), bytesOf(design.image)]);
    if (design.svg) files.push([fileName(design, "svg"), utf8(design.svg)]);
  }
  save(zip(files), "bridges.zip");
}
