// ---- the elementwise functions: the definition that all back ends share, spelled for one element --------------------
#define VALUE float
#define DOUBLE double
#define CONTEXT
#define ARGUMENT
#define K(c) ((float)(c))
#define KD(c) ((double)(c))
#define NEG(x) (-(x))
#define LESS(a, b, then, otherwise) ((a) < (b) ? (then) : (otherwise))
#define POW2(t) f32_of_bits((bits_of_f32(t) + 127u) << 23)
#define EXPONENT(x) ((float)((int)(bits_of_f32(x) >> 23 & 255u) - 127))
#define FRACTION(x) f32_of_bits((bits_of_f32(x) & 0x7fffffu) | 0x3f800000u)
#define WIDEN(x) ((double)(x))
#define NARROW(d) ((float)(d))
#define SELECT_ODD(t, a, b) (bits_of_f64(t) & 1 ? (a) : (b))
#define NEGATE_BIT1(t, a) (bits_of_f64(t) & 2 ? -(a) : (a))
#define INFINITE f32_of_bits(0x7f800000u)
#ifndef DIPPER_HOST
#define __builtin_inff() INFINITE
#define __builtin_nanf(text) f32_of_bits(0x7fc00000u)
#endif
