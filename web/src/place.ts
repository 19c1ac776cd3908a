// Where a popover goes.

export interface Box {
  left: number;
  top: number;
  width: number;
  height: number;
}

const GAP = 8;

interface Size {
  width: number;
  height: number;
}

/** On the side asked for, or on the other where only that has room; never past the sides of the window. */
export function place(anchor: Box, size: Size, view: Size, side: "above" | "below"): { left: number; top: number } {
  const middle = anchor.left + anchor.width / 2 - size.width / 2;
  const left = Math.max(GAP, Math.min(middle, view.width - size.width - GAP));
  const above = anchor.top - size.height - GAP;
  const below = anchor.top + anchor.height + GAP;
  const fitsAbove = above >= GAP;
  const fitsBelow = below + size.height <= view.height - GAP;
  const goesBelow = fitsBelow && (side === "below" || !fitsAbove);
  return { left, top: goesBelow ? below : Math.max(GAP, above) };
}
