#!/bin/sh
# Makes the clips that stand in for a camera, from tests/data/pictures, into tests/browser/out:
#   people.y4m   640x480, 30 fps, 4 s: Chromium's fake camera, which repeats it
#   people.webm  the same as VP8: the page's file stand-in, and Firefox
#   black.y4m    640x480, black
#   signs.y4m    640x480, 10 fps: signs with text, from tests/data/text
# A window pans slowly over a 704x528 scene, out and back, so that trackers have work and the
# repeat has no jump. The face is about 100 pixels wide; a cat and a cup stand beside it.
set -eu
cd "$(dirname "$0")"
data=../data/pictures
out=out
mkdir -p "$out"

scene='
[0:v]crop=352:512:20:0,scale=364:528[person];
[1:v]scale=-2:264,crop=340:264[cat];
[2:v]crop=500:388:40:6,scale=340:264[cup];
[cat][cup]vstack=inputs=2[things];
[person][things]hstack=inputs=2,setsar=1,fps=30,
crop=640:480:32+32*sin(2*PI*t/4):24+24*cos(2*PI*t/4),format=yuv420p'

ffmpeg -v error -y -loop 1 -framerate 30 -i "$data/astronaut.jpg" -loop 1 -framerate 30 -i "$data/chelsea.jpg" \
  -loop 1 -framerate 30 -i "$data/coffee.jpg" -filter_complex "$scene" -t 4 "$out/people.y4m"
ffmpeg -v error -y -i "$out/people.y4m" -c:v libvpx -b:v 2M -g 60 -deadline realtime -cpu-used 4 "$out/people.webm"
ffmpeg -v error -y -f lavfi -i color=black:size=640x480:rate=30 -t 1 -pix_fmt yuv420p "$out/black.y4m"
ffmpeg -v error -y -loop 1 -framerate 10 -i ../data/text/signs.jpg -t 1 -pix_fmt yuv420p "$out/signs.y4m"
