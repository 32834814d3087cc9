// Drawing: the picture, its regions, what is being pointed at, and what an answer was read from.

function paint() {
  const pen = canvas.getContext('2d');
  const ratio = stage.ratio();
  const area = stage.rect();
  pen.setTransform(ratio, 0, 0, ratio, 0, 0); // from here on in CSS pixels
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = 'high';
  pen.imageSmoothingEnabled = stage.view.zoom < 6; // nearer, one wants to see the pixels
  pen.drawImage(picture.image, area.left, area.top, area.width, area.height);
  if (look) return paintEvidence(pen, area, ratio);
  if (tool === 'everything') paintCandidates(pen, area, ratio);
  if (shown) {
    for (const region of scene.regions) paintRegion(pen, area, ratio, region);
    for (const region of scene.regions) paintBadge(pen, area, region);
  }
  const refined = activeRegion();
  if (shown && refined && tool !== 'everything') {
    for (const [x, y, positive] of refined.points) paintDot(pen, area, x, y, positive ? '#0b7a4b' : '#b3261e', positive);
  }
  for (const { x, y, positive } of dots) paintDot(pen, area, x, y, 'rgba(20, 20, 30, .55)', positive);
  if (drag && drag.to) paintBox(pen, area, [...drag.from, ...drag.to]);
  if (drag && drag.points) paintBrush(pen, area);
  if (cross && document.activeElement === canvas) paintCross(pen, area);
}

// The pen in pixels of an outline; returns how many CSS pixels one of them is.
function enter(pen, area, ratio, shape) {
  const scale = area.width / shape.size[1];
  pen.setTransform(ratio * scale, 0, 0, ratio * area.height / shape.size[0], ratio * area.left, ratio * area.top);
  return scale;
}

function leave(pen, ratio) {
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
}

function paintRegion(pen, area, ratio, region) {
  const shape = shapes.get(region.number);
  if (!shape) return;
  const scale = enter(pen, area, ratio, shape);
  const over = hovered === region.number;
  pen.lineJoin = 'round';
  pen.fillStyle = colourOf(region.number);
  pen.globalAlpha = over ? 0.5 : region.asked ? 0.22 : 0;
  if (pen.globalAlpha) pen.fill(shape.path, 'evenodd');
  pen.globalAlpha = 1;
  const line = region.asked || over ? 3 : 1.75;
  for (const [colour, width] of [['rgba(255, 255, 255, .9)', line + 2.5], [colourOf(region.number), line]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width / scale;
    pen.stroke(shape.path);
  }
  leave(pen, ratio);
}

function paintCandidates(pen, area, ratio) {
  pen.fillStyle = 'rgba(10, 15, 25, .35)';
  pen.fillRect(area.left, area.top, area.width, area.height);
  candidates.forEach((shape, index) => {
    const scale = enter(pen, area, ratio, shape);
    if (index === aimed) {
      pen.fillStyle = 'rgba(255, 255, 255, .45)';
      pen.fill(shape.path, 'evenodd');
    }
    pen.strokeStyle = '#ffffff';
    pen.lineWidth = (index === aimed ? 3 : 1.25) / scale;
    pen.stroke(shape.path);
    leave(pen, ratio);
  });
}

function badgePlace(area, region) {
  const radius = region.number === scene.active ? 13 : 11;
  const keep = (value, limit) => Math.min(Math.max(value, radius + 2), Math.max(radius + 2, limit - radius - 2));
  return {
    radius,
    x: keep(area.left + (region.box[0] + region.box[2]) / 2 * area.width, stage.frameWidth()),
    y: keep(area.top + region.box[1] * area.height, stage.frameHeight()),
  };
}

function paintBadge(pen, area, region) {
  const { x, y, radius } = badgePlace(area, region);
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fillStyle = colourOf(region.number);
  pen.fill();
  pen.lineWidth = 2;
  pen.strokeStyle = '#ffffff';
  pen.stroke();
  pen.fillStyle = inkOf(region.number);
  pen.font = '700 ' + (region.number > 99 ? 10 : 13) + 'px "IBM Plex Sans", system-ui, sans-serif';
  pen.textAlign = 'center';
  pen.textBaseline = 'middle';
  pen.fillText(region.number, x, y + 1);
}

function paintDot(pen, area, x, y, colour, positive) {
  const [px, py, r] = [area.left + x * area.width, area.top + y * area.height, 6];
  pen.beginPath();
  pen.arc(px, py, r, 0, 2 * Math.PI);
  pen.fillStyle = colour;
  pen.fill();
  pen.lineWidth = 1.5;
  pen.strokeStyle = '#ffffff';
  pen.stroke();
  pen.beginPath();
  pen.moveTo(px - r / 2, py);
  pen.lineTo(px + r / 2, py);
  if (positive) {
    pen.moveTo(px, py - r / 2);
    pen.lineTo(px, py + r / 2);
  }
  pen.stroke();
}

function paintBox(pen, area, [x0, y0, x1, y1]) {
  pen.setLineDash([6, 4]);
  for (const [colour, width] of [['#ffffff', 3.5], ['#111827', 1.5]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.strokeRect(area.left + x0 * area.width, area.top + y0 * area.height, (x1 - x0) * area.width, (y1 - y0) * area.height);
  }
  pen.setLineDash([]);
}

function paintBrush(pen, area) {
  const places = drag.points.map(([x, y]) => [area.left + x * area.width, area.top + y * area.height]);
  pen.lineCap = pen.lineJoin = 'round';
  pen.lineWidth = 2 * brushRadius();
  pen.strokeStyle = sign === 'exclude' ? 'rgba(179, 38, 30, .5)' : 'rgba(15, 118, 110, .5)';
  pen.beginPath();
  pen.moveTo(...places[0]);
  for (const place of places) pen.lineTo(...place);
  pen.stroke();
  pen.lineCap = 'butt';
}

function paintCross(pen, area) {
  const [x, y] = [area.left + cross.x * area.width, area.top + cross.y * area.height];
  if (cross.corner) paintBox(pen, area, [...cross.corner, cross.x, cross.y]);
  for (const [colour, width] of [['#ffffff', 4], ['#111827', 2]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      pen.moveTo(x + 4 * dx, y + 4 * dy);
      pen.lineTo(x + 14 * dx, y + 14 * dy);
    }
    pen.stroke();
  }
}

// Hits ---------------------------------------------------------------------------------------

const hitPen = document.createElement('canvas').getContext('2d');

function hits(shape, [x, y]) {
  const [height, width] = shape.size;
  const [px, py] = [x * width, y * height];
  if (px < shape.x0 || px > shape.x1 || py < shape.y0 || py > shape.y1) return false;
  return hitPen.isPointInPath(shape.path, px, py, 'evenodd');
}

// The smallest of those under a place: what lies on top for the eye.
function smallest(entries, place) {
  let best = null;
  let least = Infinity;
  for (const [key, shape] of entries) {
    const size = (shape.x1 - shape.x0) * (shape.y1 - shape.y0);
    if (size < least && hits(shape, place)) [best, least] = [key, size];
  }
  return best;
}

const candidateAt = (place) => smallest(candidates.entries(), place);
const regionAt = (place) => (shown ? smallest(shapes, place) : null);

// Evidence -----------------------------------------------------------------------------------

function showEvidence(found) {
  look = { ...found, chosen: found.maps.length - 1, heat: found.maps.map(heat) };
  emit('looked', found);
  refreshLook();
  draw();
}

// A map as a small picture: transparent where nothing was read, bright where most was.
function heat({ rows, columns, levels }) {
  const sheet = make('canvas');
  [sheet.width, sheet.height] = [columns, rows];
  const image = new ImageData(columns, rows);
  [...atob(levels)].forEach((letter, index) => {
    const level = letter.charCodeAt(0) / 255;
    image.data.set([255, 90 + 140 * level, 20, 235 * level], 4 * index);
  });
  sheet.getContext('2d').putImageData(image, 0, 0);
  return sheet;
}

function paintEvidence(pen, area, ratio) {
  pen.fillStyle = 'rgba(5, 10, 20, .55)';
  pen.fillRect(area.left, area.top, area.width, area.height);
  pen.imageSmoothingEnabled = true;
  if (look.heat.length) pen.drawImage(look.heat[look.chosen], area.left, area.top, area.width, area.height);
  for (const region of scene.regions) paintRegion(pen, area, ratio, { ...region, asked: false });
  for (const box of Object.values(look.close_ups)) paintBox(pen, area, box);
}

function refreshLook() {
  const bar = find('.lc-look');
  bar.hidden = !look;
  if (!look) return bar.replaceChildren();
  const tabs = look.maps.map((map, index) => {
    const tab = make('button', 'l-pill', map.source);
    tab.setAttribute('aria-pressed', index === look.chosen);
    tab.onclick = () => {
      look.chosen = index;
      refreshLook();
      draw();
    };
    return tab;
  });
  const close = iconButton('close', 'Back to the regions', () => {
    look = null;
    refreshLook();
    draw();
  });
  const words = ['Where it looked'];
  const small = Object.keys(look.close_ups);
  if (small.length) words.push('region ' + small.join(', ') + ': too small, used a close-up (dashed)');
  bar.replaceChildren(make('span', '', words.join(' · ')), ...tabs, close);
}
