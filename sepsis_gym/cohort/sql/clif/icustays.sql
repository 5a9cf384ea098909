-- ICU stays from CLIF's bed movements.
-- Inputs:  clif_adt, hospitalizations; variable gap_hours
-- Output:  as icu/icustays; stay_id counts the stays by patient and time
-- Rule:    a stay goes on in the next ICU bed unless the patient was in another bed in between or
--          gap_hours passed; a trip to a procedure, to radiology or to dialysis is no other bed. A
--          bed that was not left yet is left at discharge.
WITH beds AS (
    SELECT h.subject_id, h.hadm_id, a.in_dttm + h.clock AS intime,
        coalesce(a.out_dttm, h.discharge_dttm) + h.clock AS outtime,
        lower(a.location_category) = 'icu' AS icu
    FROM clif_adt a
    JOIN hospitalizations h USING (hospitalization_id)
    WHERE lower(a.location_category) NOT IN ('procedural', 'radiology', 'dialysis')
), linked AS (
    SELECT *, coalesce(lag(icu) OVER moves
            AND intime - lag(outtime) OVER moves <= to_hours(getvariable('gap_hours')), FALSE)
            AS goes_on
    FROM beds
    WINDOW moves AS (PARTITION BY hadm_id ORDER BY intime, outtime)
), numbered AS (
    SELECT *, sum((NOT goes_on)::INTEGER) OVER (PARTITION BY hadm_id
        ORDER BY intime, outtime ROWS UNBOUNDED PRECEDING) AS nth
    FROM linked
    WHERE icu
), merged AS (
    SELECT subject_id, hadm_id, min(intime) AS intime, max(outtime) AS outtime
    FROM numbered
    GROUP BY subject_id, hadm_id, nth
)
SELECT *, row_number() OVER (ORDER BY subject_id, intime, hadm_id) AS stay_id
FROM merged
