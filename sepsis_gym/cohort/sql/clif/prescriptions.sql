-- Courses of antibiotics, from the doses given.
-- Inputs:  clif_doses, stays; variable course_gap_hours
-- Output:  as hosp/prescriptions
-- Rule:    the first dose of a drug after course_gap_hours without it starts a course; a later dose
--          is no new suspicion of infection.
-- Source:  Rhee et al. 2017: a new antibiotic was not given in the two days before.
WITH given AS (
    SELECT *, coalesce(time - lag(time) OVER drugs
            > to_hours(getvariable('course_gap_hours')), TRUE) AS first_dose
    FROM clif_doses
    WHERE antibiotic AND coalesce(action NOT IN ('not_given', 'stop'), TRUE)
        AND subject_id IN (SELECT subject_id FROM stays)
    WINDOW drugs AS (PARTITION BY hadm_id, med_category, route ORDER BY time)
), numbered AS (
    SELECT *, sum(first_dose::INTEGER) OVER (PARTITION BY hadm_id, med_category, route
        ORDER BY time) AS course
    FROM given
)
SELECT subject_id, hadm_id, min(time) AS starttime, max(time) AS stoptime, 'MAIN' AS drug_type,
    min(drug) AS drug, route
FROM numbered
GROUP BY subject_id, hadm_id, med_category, route, course
