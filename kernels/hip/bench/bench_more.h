// Part of bench.cpp: what is not a matrix product.
#pragma once

template <class Wanted>
static void bench_more(const Wanted &) {}
