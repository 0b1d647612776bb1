// The drawing pad: strokes by mouse, finger, pen or keyboard, black on white.

import { greyPng } from "./png.js";

const SIDE = 560, WIDTH = 44, STEP = 16;
const FRAME = 28, BOX = 20; // of MNIST

export class Pad {
  constructor(canvas, pen, onChange) {
    this.canvas = canvas;
    this.pen = pen;
    this.onChange = onChange; // (isDrawing)
    this.strokes = [];
    this.current = null;
    this.cursor = { x: SIDE / 2, y: SIDE / 2, isDown: false };
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    canvas.addEventListener("pointerdown", (event) => this.start(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.end());
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    canvas.addEventListener("focus", () => this.showPen());
    canvas.addEventListener("blur", () => { this.pen.hidden = true; this.lift(); });
    this.redraw();
  }

  get isEmpty() {
    return this.strokes.length === 0;
  }

  start(event) {
    if (event.button) return;
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.lift();
    this.pen.hidden = true;
    this.current = [];
    this.strokes.push(this.current);
    this.add(event);
  }

  move(event) {
    if (!this.current || this.cursor.isDown) return;
    const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const each of events.length ? events : [event]) this.add(each);
  }

  end() {
    if (!this.current || this.cursor.isDown) return;
    this.current = null;
    this.onChange(false);
  }

  add(event) {
    const box = this.canvas.getBoundingClientRect();
    const width = event.pointerType === "pen" ? WIDTH * (0.55 + 0.9 * event.pressure) : WIDTH;
    this.addPoint((event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height, width);
  }

  addPoint(x, y, width) {
    const last = this.current.at(-1) || { x, y };
    this.current.push({ x, y, width });
    this.line(last, { x, y, width });
    this.onChange(true);
  }

  onKey(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const cursor = this.cursor;
    if (event.key in moves) {
      const [x, y] = moves[event.key], step = event.shiftKey ? 3 * STEP : STEP;
      cursor.x = Math.min(Math.max(cursor.x + x * step, 0), SIDE);
      cursor.y = Math.min(Math.max(cursor.y + y * step, 0), SIDE);
      if (cursor.isDown) this.addPoint(cursor.x, cursor.y, WIDTH);
    } else if (event.key === " ") {
      if (cursor.isDown) {
        this.lift();
      } else {
        cursor.isDown = true;
        this.current = [];
        this.strokes.push(this.current);
        this.addPoint(cursor.x, cursor.y, WIDTH);
      }
    } else if (event.key === "Escape") {
      this.clear();
    } else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) {
      this.undo();
    } else {
      return;
    }
    event.preventDefault();
    this.showPen();
  }

  lift() {
    if (!this.cursor.isDown) return;
    this.cursor.isDown = false;
    this.current = null;
    this.pen.classList.remove("down");
    this.onChange(false);
  }

  showPen() {
    if (!this.canvas.matches(":focus-visible")) return;
    this.pen.hidden = false;
    this.pen.style.left = `${this.cursor.x / SIDE * 100}%`;
    this.pen.style.top = `${this.cursor.y / SIDE * 100}%`;
    this.pen.classList.toggle("down", this.cursor.isDown);
  }

  undo() {
    this.cursor.isDown = false;
    this.current = null;
    this.strokes.pop();
    this.redraw();
    this.onChange(false);
  }

  clear() {
    this.cursor.isDown = false;
    this.current = null;
    this.strokes = [];
    this.redraw();
    this.onChange(false);
  }

  redraw() {
    this.context.fillStyle = "#fff";
    this.context.fillRect(0, 0, SIDE, SIDE);
    for (const stroke of this.strokes) {
      stroke.forEach((point, place) => this.line(stroke[Math.max(place - 1, 0)], point));
    }
  }

  line(from, to) {
    const context = this.context;
    context.strokeStyle = "#000";
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = to.width;
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x + 0.01, to.y); // a point is a line, too
    context.stroke();
  }

  // The whole drawing as a PNG of 140 x 140.
  blob() {
    return toBlob(scaled(this.canvas, 140, 140));
  }

  // The drawing as MNIST frames digits, light on black, 28 x 28: the service takes it as it is, 80 times as fast. It is
  // what is sent while the pen is down; the service itself frames the finished drawing.
  async framedBlob() {
    const points = this.strokes.flat(), half = WIDTH / 2;
    if (!points.length) return this.blob();
    const left = Math.max(Math.min(...points.map((point) => point.x)) - half, 0);
    const top = Math.max(Math.min(...points.map((point) => point.y)) - half, 0);
    const right = Math.min(Math.max(...points.map((point) => point.x)) + half, SIDE);
    const bottom = Math.min(Math.max(...points.map((point) => point.y)) + half, SIDE);
    const zoom = BOX / Math.max(right - left, bottom - top);
    const width = Math.max((right - left) * zoom, 1), height = Math.max((bottom - top) * zoom, 1);
    const frame = canvasOf(FRAME, FRAME), context = frame.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, FRAME, FRAME);
    context.imageSmoothingQuality = "high";
    context.drawImage(this.canvas, left, top, right - left, bottom - top, (FRAME - width) / 2, (FRAME - height) / 2, width, height);
    const { data } = context.getImageData(0, 0, FRAME, FRAME);
    let mass = 0, x = 0, y = 0;
    for (let place = 0; place < FRAME * FRAME; place++) {
      const ink = 255 - data[4 * place];
      mass += ink;
      x += ink * (place % FRAME);
      y += ink * Math.floor(place / FRAME);
    }
    const middle = (FRAME - 1) / 2, across = Math.round(middle - x / mass), down = Math.round(middle - y / mass);
    const levels = new Uint8Array(FRAME * FRAME);
    for (let place = 0; place < FRAME * FRAME; place++) {
      const column = place % FRAME + across, row = Math.floor(place / FRAME) + down;
      if (column >= 0 && column < FRAME && row >= 0 && row < FRAME) levels[row * FRAME + column] = 255 - data[4 * place];
    }
    return greyPng(levels, FRAME, FRAME);
  }
}

export function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

export function scaled(source, width, height) {
  const canvas = canvasOf(width, height), context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
  return canvas;
}

// A square thumbnail of an image or canvas, or null if the browser cannot show the file.
export async function thumbnail(blob, side = 80) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    return null;
  }
  const canvas = canvasOf(side, side), context = canvas.getContext("2d");
  const zoom = Math.max(side / bitmap.width, side / bitmap.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (side - bitmap.width * zoom) / 2, (side - bitmap.height * zoom) / 2, bitmap.width * zoom, bitmap.height * zoom);
  bitmap.close();
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

const toBlob = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
