//! Pixel work through OpenCV; the only file that names it.
