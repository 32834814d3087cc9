// Areas: COCO's compressed run lengths -> an outline that can be filled, stroked and hit.

// Text -> lengths of runs, outside first, down the columns.
function runLengths(counts) {
  const runs = [];
  for (let i = 0; i < counts.length; ) {
    let value = 0;
    let shift = 0;
    let bits;
    do {
      bits = counts.charCodeAt(i++) - 48;
      value |= (bits & 31) << shift;
      shift += 5;
    } while (bits & 32);
    if (bits & 16) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

// Runs -> for each column the rows where inside and outside change: [start, end, start, end, ...].
function columnsOf(runs, height, width) {
  const columns = Array.from({ length: width }, () => []);
  for (let i = 0, start = 0; i < runs.length; start += runs[i++]) {
    if (i % 2 === 0) continue;
    for (let from = start, end = start + runs[i]; from < end; ) {
      const column = Math.floor(from / height);
      const until = Math.min(end, (column + 1) * height);
      columns[column].push(from - column * height, until - column * height);
      from = until;
    }
  }
  return columns;
}

// The pieces of [start, end, ...] lists that lie in one of the two and not in the other.
function difference(left, right) {
  const edges = [...left, ...right].sort((a, b) => a - b);
  const kept = [];
  for (let i = 0; i + 1 < edges.length; i += 2) {
    if (edges[i] < edges[i + 1]) kept.push([edges[i], edges[i + 1]]);
  }
  return kept;
}

const isInside = (column, row) => {
  for (let i = 0; column && i < column.length; i += 2) if (row >= column[i] && row < column[i + 1]) return true;
  return false;
};

// Edges between inside and outside, linked into loops with the inside at their right hand. Corners
// are cut at the middles of their two edges, so that an outline is smooth when it is enlarged.
function outline(rle) {
  const [height, width] = rle.size;
  const columns = columnsOf(runLengths(rle.counts), height, width);
  const next = new Map(); // a corner of the pixel grid -> where the edges that start there end
  const stride = width + 1;
  const link = (x0, y0, x1, y1) => {
    const from = y0 * stride + x0;
    const to = y1 * stride + x1;
    if (next.has(from)) next.get(from).push(to);
    else next.set(from, [to]);
  };
  const corners = { x0: width, y0: height, x1: 0, y1: 0 };
  for (let x = 0; x <= width; x++) {
    const here = columns[x] || [];
    const before = columns[x - 1] || [];
    for (let i = 0; i < here.length; i += 2) {
      link(x, here[i], x + 1, here[i]);
      link(x + 1, here[i + 1], x, here[i + 1]);
      corners.x0 = Math.min(corners.x0, x);
      corners.x1 = Math.max(corners.x1, x + 1);
      corners.y0 = Math.min(corners.y0, here[i]);
      corners.y1 = Math.max(corners.y1, here[i + 1]);
    }
    for (const [top, bottom] of difference(before, here)) {
      if (isInside(before, top)) link(x, top, x, bottom);
      else link(x, bottom, x, top);
    }
  }
  return { path: loops(next, stride), size: rle.size, ...corners };
}

function loops(next, stride) {
  const path = new Path2D();
  const at = (corner) => [corner % stride, Math.floor(corner / stride)];
  for (const start of [...next.keys()]) {
    while (next.get(start)?.length) {
      const corners = [];
      let corner = start;
      do {
        const ways = next.get(corner);
        if (!ways || !ways.length) break; // never in a whole outline
        corners.push(corner);
        corner = ways.pop();
      } while (corner !== start);
      const points = corners.map(at);
      const turns = ([x, y], i) => {
        const [px, py] = points.at(i - 1);
        const [nx, ny] = points[(i + 1) % points.length];
        return (px !== x || nx !== x) && (py !== y || ny !== y);
      };
      trace(path, points.filter(turns));
    }
  }
  return path;
}

// A closed polygon of axis-parallel edges, each corner cut by at most half a pixel.
function trace(path, corners) {
  const count = corners.length;
  for (let i = 0; i < count; i++) {
    const [x, y] = corners[i];
    const [px, py] = corners[(i + count - 1) % count];
    const [nx, ny] = corners[(i + 1) % count];
    const towards = (ox, oy) => {
      const length = Math.abs(ox - x) + Math.abs(oy - y);
      const part = Math.min(0.5, length / 2) / length;
      return [x + (ox - x) * part, y + (oy - y) * part];
    };
    const [ax, ay] = towards(px, py);
    const [bx, by] = towards(nx, ny);
    if (i) path.lineTo(ax, ay);
    else path.moveTo(ax, ay);
    path.lineTo(bx, by);
  }
  path.closePath();
}
