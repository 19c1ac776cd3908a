// Where a popover goes.

export interface Box {
  left: number;
  top: number;
  width: number;
  height: number;
}

const GAP = 8;

/** Above the anchor where there is room, else below it; never past the sides of the window. */
export function place(anchor: Box, size: { width: number; height: number }, view: { width: number; height: number }): {
  left: number;
  top: number;
} {
  const middle = anchor.left + anchor.width / 2 - size.width / 2;
  const left = Math.max(GAP, Math.min(middle, view.width - size.width - GAP));
  const above = anchor.top - size.height - GAP;
  const below = anchor.top + anchor.height + GAP;
  const fitsBelow = below + size.height <= view.height - GAP;
  return { left, top: above >= GAP || !fitsBelow ? Math.max(GAP, above) : below };
}
